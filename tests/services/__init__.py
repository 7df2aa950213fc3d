"""Real servers for the tests: each module here is one server, its machinery is in harness/.

A server is found by POSTROAD_TEST_<NAME>_URL, else started on free loopback ports in a
temporary directory. To add one, write a module beside redis.py that ends with
``SERVICE = YourService()``; the fixture ``<name>_server`` follows from it.
"""
