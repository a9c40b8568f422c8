"""What a binding matches. The meaning is AMQP's: https://www.rabbitmq.com/tutorials/amqp-concepts"""

#: binding, keys that match, keys that do not.
TOPICS = [
    ("order.placed", ["order.placed"], ["order", "order.placed.now", "order.placedx", "xorder.placed", "order_placed"]),
    ("order.*", ["order.placed", "order."], ["order", "order.placed.now", "menu.changed"]),
    ("*.placed", ["order.placed"], ["placed", "shop.order.placed", "order.paid"]),
    ("*", ["order", "a-b"], ["order.placed", ""]),
    ("*.*", ["order.placed"], ["order", "a.b.c"]),
    ("order.#", ["order", "order.placed", "order.placed.now"], ["orders", "menu.order"]),
    ("#.placed", ["placed", "order.placed", "shop.order.placed"], ["order.placed.now", "displaced"]),
    ("#", ["", "order", "order.placed", "a.b.c.d"], []),
    ("order.#.done", ["order.done", "order.x.done", "order.x.y.done"], ["order", "done", "order.done.x"]),
    ("order.#.*", ["order.x", "order.x.y"], ["order"]),
    ("*.#", ["order", "order.x.y"], [""]),
    ("#.#", ["", "order", "order.placed"], []),
    ("#.a.#", ["a", "x.a", "a.x", "x.a.y"], ["", "x", "x.ab.y"]),
    ("*.a.#.b", ["x.a.b", "x.a.y.b"], ["a.b", "x.a", "x.a.b.c"]),
    ("a.+", ["a.+"], ["a.b", "a.++"]),
    ("a.[b]", ["a.[b]"], ["a.b"]),
]
