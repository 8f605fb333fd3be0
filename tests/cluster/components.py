"""Command lines and configuration files of everything that runs on the node. All paths are those inside of it (``init.ROOT``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.cluster.init import ROOT
from tests.cluster.network import Network
from tests.cluster.pki import PROXY_AUTHORITY, Identity, kubeconfig, make_pki

NODE = "node1"
API_PORT = 6443
PAUSE_IMAGE = "localhost/llmperf-busybox:1"
CONTAINERD = "/run/containerd/containerd.sock"
GPU_LABELS = {
    "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.count": "8",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/mig.strategy": "mixed",
}
"""What a cloud and NVIDIA's GPU feature discovery say of a node with eight H100."""
GPU_RESOURCES = {"nvidia.com/gpu": "8", "nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-3g.40gb": "2"}
"""What NVIDIA's device plugin would advertise."""
USERS = {
    "admin": "/O=system:masters/CN=admin",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
}
_ETCD = "http://127.0.0.1:2379"
_PKI = ROOT / "pki"
_ETC = ROOT / "etc"


@dataclass(frozen=True)
class Component:
    """A program of the cluster. Those that are ``clients`` of the API server start once it answers."""

    name: str
    command: tuple[str, ...]
    client: bool = True


def write_configuration(folder: Path, network: Network, control_group: str, cni: Path) -> None:
    """Write certificates, kubeconfig files and the configuration of containerd, its network and the kubelet into ``folder``."""
    make_pki(folder / "pki", _identities(network))
    etc = folder / "etc"
    (etc / "cni").mkdir(parents=True)
    for user in USERS:
        (etc / f"{user}.kubeconfig").write_text(kubeconfig(folder / "pki", user, api_url(network)))
    (etc / "containerd.toml").write_text(_containerd(cni))
    (etc / "cni" / "10-pods.conflist").write_text(json.dumps(_pod_network(network), indent=1))
    (etc / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(network, control_group)))
    (etc / "resolv.conf").write_text("")  # names are not resolved: nothing outside of the node can be reached from it


def api_url(network: Network) -> str:
    """The API server, from the machine and from the node."""
    return f"https://{network.node}:{API_PORT}"


def components(network: Network) -> tuple[Component, ...]:
    """Everything that runs, in the order in which it starts."""
    return (
        Component("etcd", _etcd(), client=False),
        Component("containerd", ("containerd", f"--config={_ETC}/containerd.toml"), client=False),
        Component("kube-apiserver", _api_server(network), client=False),
        Component("kube-controller-manager", _controller_manager()),
        Component("kube-scheduler", (*_program("kube-scheduler"), "--leader-elect=false")),
        Component("kubelet", _kubelet_command(network)),
        Component("kube-proxy", _proxy(network)),
    )


def _identities(network: Network) -> list[Identity]:
    served = (f"IP:{network.node}", f"IP:{network.api_service}", "IP:127.0.0.1", "DNS:localhost", "DNS:kubernetes.default.svc")
    names = {"kubelet": (f"IP:{network.node}", f"DNS:{NODE}")}
    users = [Identity(user, subject, names=names.get(user, ())) for user, subject in USERS.items()]
    servers = [Identity("kube-apiserver", "/CN=kube-apiserver", names=served)]
    return [*users, *servers, Identity("front-proxy", "/CN=front-proxy", authority=PROXY_AUTHORITY)]


def _program(name: str) -> tuple[str, str]:
    return (f"{ROOT}/bin/{name}", f"--kubeconfig={_ETC}/{name}.kubeconfig")


def _etcd() -> tuple[str, ...]:
    return (
        "etcd",
        f"--data-dir={ROOT}/etcd",
        "--unsafe-no-fsync",  # nothing of it is to survive the machine
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
    )


def _api_server(network: Network) -> tuple[str, ...]:
    return (
        f"{ROOT}/bin/kube-apiserver",
        f"--etcd-servers={_ETCD}",
        f"--advertise-address={network.node}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={network.services}",
        f"--cert-dir={ROOT}/pki/made",
        f"--tls-cert-file={_PKI}/kube-apiserver.crt",
        f"--tls-private-key-file={_PKI}/kube-apiserver.key",
        f"--client-ca-file={_PKI}/ca.crt",
        f"--service-account-key-file={_PKI}/sa.pub",
        f"--service-account-signing-key-file={_PKI}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={_PKI}/admin.crt",
        f"--kubelet-client-key={_PKI}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",  # the node's name resolves nowhere
        "--enable-aggregator-routing=true",
        f"--proxy-client-cert-file={_PKI}/front-proxy.crt",
        f"--proxy-client-key-file={_PKI}/front-proxy.key",
        f"--requestheader-client-ca-file={_PKI}/{PROXY_AUTHORITY}.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    )


def _controller_manager() -> tuple[str, ...]:
    return (
        *_program("kube-controller-manager"),
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={_PKI}/sa.key",
        f"--root-ca-file={_PKI}/ca.crt",
        f"--cert-dir={ROOT}/pki/made",
        "--enable-hostpath-provisioner",  # claims get a folder below the node's /tmp
    )


def _kubelet_command(network: Network) -> tuple[str, ...]:
    return (
        *_program("kubelet"),
        f"--config={_ETC}/kubelet.yaml",
        f"--root-dir={ROOT}/kubelet",
        f"--cert-dir={ROOT}/pki/made",
        f"--hostname-override={NODE}",
        f"--node-ip={network.node}",
        f"--node-labels={','.join(f'{key}={value}' for key, value in GPU_LABELS.items())}",
    )


def _proxy(network: Network) -> tuple[str, ...]:
    return (
        *_program("kube-proxy"),
        f"--hostname-override={NODE}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={network.pods}",
        "--masquerade-all",  # a pod that asks a service which leads to its neighbour must see the answer come from the service
        "--iptables-min-sync-period=100ms",
        # These are the whole machine's, and not this network namespace's to set.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    )


def _kubelet(network: Network, control_group: str) -> Mapping[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{_PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{_PKI}/kubelet.crt",
        "tlsPrivateKeyFile": f"{_PKI}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "resolvConf": f"{_ETC}/resolv.conf",
        "clusterDNS": [network.dns_service],
        "clusterDomain": "cluster.local",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{control_group}",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "serializeImagePulls": False,
        # Images cannot be pulled again, and how full a laptop's disk is says nothing about the cluster.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "volumePluginDir": f"{ROOT}/kubelet/plugins",
    }


def _pod_network(network: Network) -> Mapping[str, object]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": network.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/run/pod-addresses",
    }
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def _containerd(cni: Path) -> str:
    return f"""\
version = 2
root = "{ROOT}/containerd"
state = "/run/containerd"

[grpc]
address = "{CONTAINERD}"

[plugins."io.containerd.internal.v1.opt"]
path = "{ROOT}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE, as in some virtual machines, a sandbox may not ask for less than its parent has.
restrict_oom_score_adj = true
max_concurrent_downloads = 1

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{_ETC}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""
