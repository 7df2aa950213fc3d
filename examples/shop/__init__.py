"""A shop on Postroad: FastAPI, SQLAlchemy, a transactional outbox and three consumers.

See README.md beside this file. It begins with `python -m examples.shop`.
"""
