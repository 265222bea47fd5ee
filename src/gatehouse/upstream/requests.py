"""MLflow's requests as messages: the protobuf class that a handler parses, and MLflow's own reading and writing of it.

Relied on, in mlflow/server/handlers.py: ``HANDLERS`` (message class → handler) and
``_reject_conflicting_field_aliases``; in mlflow/utils/proto_json_utils.py: ``parse_dict`` and ``message_to_json``, the
canonical JSON that its SDK sends. Guarded by tests/access/test_people.py: each handler parses the class that is found
here.
"""

from __future__ import annotations

from typing import Any

#: A protobuf message; MLflow's classes have no types.
Message = Any


class Unreadable(Exception):
    """MLflow's message class doesn't take this document; the text says what is wrong."""


def message_classes() -> dict[str, type[Message]]:
    """Return the class of the request of each handler, by the handler's name.

    Those without one read JSON themselves.
    """
    from mlflow.server.handlers import HANDLERS

    return {handler.__name__: message for message, handler in HANDLERS.items()}


def read(kind: type[Message], document: dict[str, Any]) -> Message:
    """Return a request's JSON as the message that its handler would make of it.

    A handler goes on with what it had read when a field has the wrong type; here such a request is refused.

    Raises:
        Unreadable: if MLflow's own parser refuses a field, or one is there under both of its names.
    """
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import _reject_conflicting_field_aliases
    from mlflow.utils.proto_json_utils import parse_dict

    message = kind()
    try:
        _reject_conflicting_field_aliases(document, message.DESCRIPTOR)
        parse_dict(document, message)
    except MlflowException as error:
        raise Unreadable(error.message) from None
    # protobuf's parser lets some of Python's own errors through: TypeError for a list of lists, RecursionError for deep
    # ones.
    except (ParseError, RecursionError, ValueError, TypeError, AttributeError) as error:
        raise Unreadable(f"Invalid request: {error}") from None
    return message


def write(message: Message) -> bytes:
    """Return a message as MLflow's canonical JSON: each field under its one name, each enum by its name.

    Raises:
        Unreadable: if JSON has no word for a value (NaN in a feedback).
    """
    from google.protobuf.json_format import Error
    from mlflow.utils.proto_json_utils import message_to_json

    try:
        return bytes(message_to_json(message, pretty=False).encode())
    except (Error, ValueError) as error:
        raise Unreadable(f"Invalid request: {error}") from None
