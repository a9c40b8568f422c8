"""The transport's Lua scripts."""

from choreo.redis_client.scripts import Script

ACK = Script.load("broker/redis/ack")
BEAT = Script.load("broker/redis/beat")
BIND = Script.load("broker/redis/bind")
BROADCAST = Script.load("broker/redis/broadcast")
FORGET = Script.load("broker/redis/forget")
GIVE_BACK = Script.load("broker/redis/give_back")
HELD = Script.load("broker/redis/held")
LEAVE = Script.load("broker/redis/leave")
PEEK = Script.load("broker/redis/peek")
PUT = Script.load("broker/redis/put")
TAKE = Script.load("broker/redis/take")
UNBIND = Script.load("broker/redis/unbind")
