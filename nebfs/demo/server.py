"""The servers of the demonstration, started together on loopback and stopped together.

with serve(cloud) as servers:
    servers.frontend_url, servers.appliance_url, servers.files_url
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from nebfs.demo.appliances import ApplianceService
from nebfs.demo.cloud import Cloud
from nebfs.demo.files import FileServer
from nebfs.demo.frontend import FrontEnd
from nebfs.demo.listening import Listener
from nebfs.demo.registry import ContainerRegistry
from nebfs.demo.s3 import ObjectStore


class DemonstrationServers:
    """Front-end, appliance service, file server, object store and container registry of one Cloud,
    on ports that the kernel chose.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.front_end = FrontEnd(cloud)
        self.appliances = ApplianceService(cloud)
        self.files = FileServer(cloud)
        self.objects = ObjectStore(cloud)
        self.registry = ContainerRegistry(cloud)
        self._listeners: dict[str, Listener] = {}

    @property
    def frontend_url(self) -> str:
        """The endpoint for XML-RPC, as ONE_XMLRPC would hold it."""
        return f"{self._listeners['front_end'].url}/RPC2"

    @property
    def appliance_url(self) -> str:
        """The address of the appliance service, without a slash at its end."""
        return self._listeners["appliances"].url

    @property
    def files_url(self) -> str:
        """The address of the file server, without a slash at its end."""
        return self._listeners["files"].url

    @property
    def objects_url(self) -> str:
        """The address of the object store, without a slash at its end."""
        return self._listeners["objects"].url

    @property
    def registry_url(self) -> str:
        """The address of the container registry, without a slash at its end."""
        return self._listeners["registry"].url

    def bytes_sent(self) -> int:
        """Return how many bytes of files and objects were sent until now."""
        return self.files.bytes_sent() + self.objects.bytes_sent()

    def failures(self) -> list[BaseException]:
        """Return what went wrong inside the servers themselves; nothing should."""
        return [failure for one in self._listeners.values() for failure in one.failures]

    def break_connections(self) -> None:
        """Cut every open connection to any of them."""
        for listener in self._listeners.values():
            listener.break_connections()

    def __enter__(self) -> Self:
        self._listeners = {
            "front_end": self.front_end.listener(),
            "appliances": self.appliances.listener(),
            "files": self.files.listener(),
            "objects": self.objects.listener(),
            "registry": self.registry.listener(),
        }
        with self.cloud.lock:
            self.cloud.origins = {name: one.url for name, one in self._listeners.items()}
            # In the name of an image a registry is without its scheme.
            self.cloud.origins["registry_host"] = self.registry_url.partition("://")[2]
        for listener in self._listeners.values():
            listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.files.release()
        self.objects.release()
        for listener in self._listeners.values():
            listener.close()


def serve(cloud: Cloud) -> DemonstrationServers:
    """Return the servers of `cloud`, to be used in a with statement."""
    return DemonstrationServers(cloud)
