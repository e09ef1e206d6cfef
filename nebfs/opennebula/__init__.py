"""The front-end's own words: sessions, XML-RPC calls, and XML documents as model objects.

What lives here: finding the session and the endpoint as OpenNebula's tools do (``session``),
reading other users' sessions for them (``session_files``), the XML-RPC codec (``xmlrpc``),
OpenNebula's error codes as classes of the error tree (``failures``), calls with their limits
(``rpc``), documents to nebfs.model (``document``, ``decode_*``), asking around objects that cannot
be sent (``ranges``) and the listings themselves (``frontend``).

What does not: HTTP (the fetcher's), timers, snapshots and what to do while the front-end is away
(the catalog's), and where an object's bytes are (marketplaces, datastores).

Who may import it: marketplaces, datastores, catalog, and rooms above those. It needs of the rooms
below only the records in fetcher/messages.py; the function that sends them is passed in.

Start reading at ``frontend.FrontEnd``.

Concurrency: everything is one trio task's plain code; a ``Caller`` may be shared by any number of
tasks, sends at most two requests at once, and decodes big answers in a worker thread of its own
limiter, one at a time. Nothing here outlives the call that started it.
"""

from nebfs.opennebula.decode_apps import decode_apps, decode_marketplaces
from nebfs.opennebula.decode_cloud import decode_user, decode_zones
from nebfs.opennebula.decode_images import decode_datastores, decode_images
from nebfs.opennebula.decode_vms import decode_machines
from nebfs.opennebula.document import MalformedDocument
from nebfs.opennebula.failures import (
    ActionRefused,
    AlreadyTaken,
    BadCall,
    CannotSend,
    Electing,
    NoSuchObject,
    NotAuthenticated,
    NotAuthorised,
    NotReplicated,
    ObjectLocked,
    RpcError,
    UnknownMethod,
)
from nebfs.opennebula.frontend import FrontEnd, app_homes, image_homes
from nebfs.opennebula.rpc import Call, Caller, NotAnEndpoint
from nebfs.opennebula.session import Session, find_endpoint, find_session, parse_session
from nebfs.opennebula.session_files import given_session, own_session
from nebfs.opennebula.xmlrpc import decode, encode

__all__ = [
    "ActionRefused",
    "AlreadyTaken",
    "BadCall",
    "Call",
    "Caller",
    "CannotSend",
    "Electing",
    "FrontEnd",
    "MalformedDocument",
    "NoSuchObject",
    "NotAnEndpoint",
    "NotAuthenticated",
    "NotAuthorised",
    "NotReplicated",
    "ObjectLocked",
    "RpcError",
    "Session",
    "UnknownMethod",
    "app_homes",
    "decode",
    "decode_apps",
    "decode_datastores",
    "decode_images",
    "decode_machines",
    "decode_marketplaces",
    "decode_user",
    "decode_zones",
    "encode",
    "find_endpoint",
    "find_session",
    "given_session",
    "image_homes",
    "own_session",
    "parse_session",
]
