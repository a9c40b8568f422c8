"""Flower's settings. `celery ... flower` reads this file from the directory in which it starts."""

# Flower's default columns leave out the arguments, which name the event of a row: "order.placed ORD-1". The uuid links
# to the page of the task, so it is in a place that a window of 1280 pixels shows.
tasks_columns = "name,args,state,uuid,runtime,received,worker"
