"""The documents that requests and answers carry."""
