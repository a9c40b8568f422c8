"""Flower's settings. `celery ... flower` reads this file in the directory where it starts."""

# Flower's own choice of columns leaves out the arguments, which is where a row says what it is about: "order.placed
# ORD-1". The uuid is the link to the task's page, so it stays where a window 1280 pixels wide still shows it.
tasks_columns = "name,args,state,uuid,runtime,received,worker"
