"""Floor 0: the words of the field as types, and pure logic over them. No I/O, ever."""
