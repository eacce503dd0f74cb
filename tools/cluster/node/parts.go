package node

import (
	"path/filepath"

	"github.com/cetrus/cetrus/tools/cluster"
)

const containerdSocket = "/run/containerd/containerd.sock"

// part is a program that belongs to a node.
type part struct {
	name string
	args []string
}

func (n *node) key(file string) string    { return filepath.Join(cluster.NodeDir, "keys", file) }
func (n *node) config(file string) string { return filepath.Join(cluster.NodeDir, "config", file) }

// controlPlane are those that need nothing but each other.
func (n *node) controlPlane() []part {
	const etcd, peers = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	a := n.Addresses
	return []part{
		{"etcd", []string{
			"--data-dir", filepath.Join(cluster.NodeDir, "etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
			"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default=" + peers,
		}},
		{"containerd", []string{"--config", n.config("containerd.toml")}},
		{"kube-apiserver", []string{
			"--etcd-servers", etcd, "--bind-address", "0.0.0.0", "--secure-port", "6443", "--advertise-address", a.Node.String(),
			"--tls-cert-file", n.key("apiserver.crt"), "--tls-private-key-file", n.key("apiserver.key"), "--client-ca-file", n.key("ca.crt"),
			"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file", n.key("service-accounts.key"), "--service-account-signing-key-file", n.key("service-accounts.key"),
			"--service-cluster-ip-range", a.Services.String(), "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
			"--kubelet-client-certificate", n.key("apiserver-kubelet.crt"), "--kubelet-client-key", n.key("apiserver-kubelet.key"),
			"--kubelet-preferred-address-types", "InternalIP", "--allow-privileged",
		}},
	}
}

// workers are those that call the API.
func (n *node) workers() []part {
	a := n.Addresses
	return []part{
		{"kube-controller-manager", []string{
			"--kubeconfig", n.key("controller-manager.kubeconfig"), "--leader-elect=false", "--bind-address", "127.0.0.1",
			"--root-ca-file", n.key("ca.crt"), "--service-account-private-key-file", n.key("service-accounts.key"), "--use-service-account-credentials",
			"--cluster-signing-cert-file", n.key("ca.crt"), "--cluster-signing-key-file", n.key("ca.key"),
			"--allocate-node-cidrs", "--cluster-cidr", a.Pods.String(), "--node-cidr-mask-size", "24", "--service-cluster-ip-range", a.Services.String(),
		}},
		{"kube-scheduler", []string{"--kubeconfig", n.key("scheduler.kubeconfig"), "--leader-elect=false", "--bind-address", "127.0.0.1"}},
		{"kubelet", []string{
			"--kubeconfig", n.key("kubelet.kubeconfig"), "--config", n.config("kubelet.yaml"),
			"--hostname-override", cluster.NodeName, "--node-ip", a.Node.String(),
		}},
		{"kube-proxy", []string{"--config", n.config("kube-proxy.yaml")}},
		{"network-policies", []string{
			"--kubeconfig", n.key("node.kubeconfig"), "--node", cluster.NodeName,
			"--services", a.Services.String(), "--load-balancers", a.LoadBalancers.String(),
		}},
	}
}
