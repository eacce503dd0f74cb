package node

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cetrus/cetrus/tools/cluster"
	"github.com/cetrus/cetrus/tools/cluster/parts"
)

//go:embed config manifests
var files embed.FS

// readyWithin is how long a node may take, on a machine that has other work too.
const readyWithin = 5 * time.Minute

// node is what the steps of starting share.
type node struct {
	cluster.Spec
	out   io.Writer
	parts *errgroup.Group
	// ended is cancelled when a part has.
	ended context.Context
}

// Run starts the parts, tells on out how far it is, and returns when one of them has ended.
func Run(ctx context.Context, out io.Writer) error {
	spec, err := cluster.ReadSpec(cluster.NodeDir)
	if err != nil {
		return err
	}
	n := &node{Spec: spec, out: out}
	n.parts, n.ended = errgroup.WithContext(ctx)
	err = n.start()
	if err == nil {
		_, _ = fmt.Fprintln(out, cluster.Ready)
		err = n.parts.Wait()
	} else if part := context.Cause(n.ended); part != nil {
		err = part
	}
	_, _ = fmt.Fprintln(out, cluster.Failed, strings.ReplaceAll(err.Error(), "\n", "\x00"))
	return err
}

func (n *node) say(words string) {
	_, _ = fmt.Fprintln(n.out, cluster.Progress, words)
}

func (n *node) start() error {
	ctx, cancel := context.WithTimeout(n.ended, readyWithin)
	defer cancel()
	n.say("starting etcd, containerd and the API server")
	if err := errors.Join(n.cable(ctx), n.configure()); err != nil {
		return err
	}
	for _, p := range n.controlPlane() {
		n.run(p)
	}
	if err := until(ctx, "containerd", func() error { return dial(ctx, "unix", containerdSocket) }); err != nil {
		return err
	}
	images, imagesCtx := errgroup.WithContext(ctx)
	images.Go(func() error { return n.importImages(imagesCtx) })
	client, err := n.client()
	if err != nil {
		return err
	}
	if err := until(ctx, "the API server", func() error {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	}); err != nil {
		return err
	}
	n.say("starting controllers, scheduler and kubelet")
	for _, p := range n.workers() {
		n.run(p)
	}
	volumes, err := newVolumes(ctx)
	if err != nil {
		n.say("volumes are folders without a limit here: " + strings.ReplaceAll(err.Error(), "\n", "; "))
		volumes.limited = false
	}
	n.parts.Go(func() error { return provideVolumes(n.ended, client, volumes) })
	n.parts.Go(func() error { return balanceLoad(n.ended, client, n.Addresses.LoadBalancers) })
	if err := n.apply(ctx); err != nil {
		return err
	}
	if err := images.Wait(); err != nil {
		return err
	}
	return n.settle(ctx, client)
}

// settle waits until the node takes pods, and names are resolved.
func (n *node) settle(ctx context.Context, client kubernetes.Interface) error {
	n.say("waiting for the node")
	if err := until(ctx, "the node", func() error {
		found, err := client.CoreV1().Nodes().Get(ctx, cluster.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range found.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("not ready: %v", found.Status.Conditions)
	}); err != nil {
		return err
	}
	n.say("waiting for DNS and Ingress")
	return errors.Join(available(ctx, client, "kube-system", "coredns"), available(ctx, client, "ingress", "front"))
}

// available waits until pods of a Deployment answer.
func available(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	return until(ctx, name, func() error {
		found, err := client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range found.Status.Conditions {
			if c.Type == appsv1.DeploymentAvailable && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("not available: %v", found.Status.Conditions)
	})
}

func (n *node) client() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", n.key("node.kubeconfig"))
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = -1, 0
	return kubernetes.NewForConfig(config)
}

// run keeps a part as a process that logs to a file. That it ends is always a failure: the node is
// ended by ending everything at once.
func (n *node) run(p part) {
	n.parts.Go(func() error {
		path := filepath.Join(cluster.NodeDir, "log", p.name+".log")
		log, err := os.Create(path)
		if err != nil {
			return err
		}
		defer func() { _ = log.Close() }()
		cmd := exec.CommandContext(n.ended, p.name, p.args...)
		cmd.Stdout, cmd.Stderr = log, log
		err = cmd.Run()
		return fmt.Errorf("%s has ended: %v; its last words (all are in %s):\n%s", p.name, err, filepath.Join(n.Dir, "log", p.name+".log"), tail(path))
	})
}

func tail(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// cable sets up the node's end.
func (n *node) cable(ctx context.Context) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", n.Addresses.Node.String() + "/24", "dev", cluster.NodeInterface},
		{"link", "set", cluster.NodeInterface, "up"},
		{"route", "add", "default", "via", n.Addresses.Host.String()},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// configure writes the files that parts are started with.
func (n *node) configure() error {
	values := struct {
		cluster.Spec
		Dir, PauseImage, DNSImage, FrontImage, NodeName, NodePods, CNIBin, Provisioner string
	}{
		Spec: n.Spec, Dir: cluster.NodeDir, PauseImage: parts.Guest, DNSImage: parts.CoreDNS, FrontImage: parts.Front, NodeName: cluster.NodeName,
		// The controller manager gives the first node the first network of 24 bits.
		NodePods: n.Addresses.Pods.Addr().String() + "/24",
		CNIBin:   "/usr/lib/cni", Provisioner: provisioner,
	}
	if _, err := os.Stat(values.CNIBin); err != nil {
		values.CNIBin = "/opt/cni/bin" // where systems other than Debian have them
	}
	return fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		parsed, err := template.New(path).Option("missingkey=error").Parse(string(content))
		if err != nil {
			return err
		}
		var filled bytes.Buffer
		if err := parsed.Execute(&filled, values); err != nil {
			return err
		}
		to := filepath.Join(cluster.NodeDir, path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, filled.Bytes(), 0o644)
	})
}

func (n *node) importImages(ctx context.Context) error {
	for _, image := range n.Images {
		cmd := exec.CommandContext(ctx, "ctr", cluster.ImportArguments(filepath.Join(cluster.NodeDir, image))...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("importing %s: %w: %s", image, err, out)
		}
	}
	return nil
}

func (n *node) apply(ctx context.Context) error {
	return until(ctx, "what every cluster has", func() error {
		cmd := exec.CommandContext(ctx, "kubectl", "--kubeconfig", n.key("node.kubeconfig"),
			"apply", "--server-side", "--filename", filepath.Join(cluster.NodeDir, "manifests"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func dial(ctx context.Context, network, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// until tries until it works, and says what was wrong at last if it never does.
func until(ctx context.Context, what string, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (%w)", what, err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
