"""The demonstration cloud: a small OpenNebula site on loopback, for `nebfs demo` and for the tests.

What lives here: the cloud as data (records.py, cloud.py, demonstration.py, catalogue.py), its disk
images (images.py, archives.py, registry_images.py), the servers that show it in the words of the
real ones, and the guided tour that mounts it with the real command line (tour.py). The servers are
frontend.py (XML-RPC as oned 7.4 speaks it, with calls.py and documents.py), appliances.py (the
public marketplace's REST service), files.py (an HTTP file server with a switch for each way to
misbehave), s3.py (an object store) and registry.py (a container registry).

What does not: anything of nebfs itself. This is a separate world that the daemon meets over sockets
only, so it imports the standard library and `model`, `errors` and `units`, nothing else; a mistake
shared with the daemon would hide itself.

Who may import it: `cli` (for the tour) and the tests (as the double of a whole cloud).
Start reading at server.py, then cloud.py.

Concurrency: plain threads, one per connection. Whoever reads or changes the Cloud holds
`cloud.lock`; the servers never hold it while they send. Nothing here runs in the daemon's process.
"""

from nebfs.demo.cloud import Cloud
from nebfs.demo.demonstration import demonstration_cloud
from nebfs.demo.server import DemonstrationServers, serve
from nebfs.demo.tour import tour

__all__ = ["Cloud", "DemonstrationServers", "demonstration_cloud", "serve", "tour"]
