package trial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cetrus/cetrus/tools/cluster/parts"
	"github.com/cetrus/cetrus/tools/stack"
)

// allowed are the connections that the architecture has, and the only ones: who speaks to whom, on which port. A stranger
// is a pod that is no part of the platform; outside is the machine, as what lies beyond the cluster.
var allowed = []string{
	"gateway → identity:8081", "gateway → metering:8081",
	"gateway → nats:4222", "identity → nats:4222", "metering → nats:4222", "keyring → nats:4222", "nats → nats:6222",
	"identity → postgres:5432", "metering → postgres:5432", "keyring → postgres:5432",
	"stranger → gateway:8080", "stranger → nats:8443",
	"stranger → gateway:9464", "stranger → identity:9464", "stranger → metering:9464", "stranger → keyring:9464", "stranger → nats:9464",
	"identity → outside:443", "stranger → outside:443", "stranger → outside:5432",
}

// listened are the ports on which anything of the platform listens.
var listened = []int{4222, 5432, 6222, 8080, 8081, 8090, 8443, 9464}

// walls tries who reaches whom, from the network of each part and of a stranger's pod.
func walls(ctx context.Context, t *trial) error {
	err := t.stranger(ctx)
	if err == nil {
		err = t.tryWalls(ctx)
	}
	return errors.Join(err, t.kube.CoreV1().Pods("default").Delete(context.WithoutCancel(ctx), "stranger", metav1.DeleteOptions{}))
}

func (t *trial) tryWalls(ctx context.Context) error {
	pods, err := t.platform.pods(ctx)
	if err != nil {
		return err
	}
	stranger, err := t.kube.CoreV1().Pods("default").Get(ctx, "stranger", metav1.GetOptions{})
	if err != nil {
		return err
	}
	of := map[string]corev1.Pod{"stranger": *stranger}
	second := map[string]corev1.Pod{} // of those that speak to their own kind
	for _, pod := range pods {
		part := pod.Labels["app.kubernetes.io/component"]
		if _, known := of[part]; known {
			second[part] = pod
			continue
		}
		of[part] = pod
	}
	outside, err := t.listenOutside()
	if err != nil {
		return err
	}
	defer outside.close()

	var targets []string
	add := func(part, address string, port int) {
		targets = append(targets, fmt.Sprintf("%s:%d %s", part, port, net.JoinHostPort(address, strconv.Itoa(port))))
	}
	for part, pod := range of {
		if other, more := second[part]; more {
			pod = other
		}
		for _, port := range listened {
			if part != "stranger" {
				add(part, pod.Status.PodIP, port)
			}
		}
	}
	for _, port := range outside.ports {
		add("outside", t.cluster.Addresses.Host.String(), port)
	}
	slices.Sort(targets)
	var reached []string
	// Policies follow pods with a delay: what is judged is what is so in the end.
	err = stack.Wait(ctx, 3*time.Minute, "everybody to reach whom they may, and nobody else", func() error {
		reached = nil
		for from, pod := range of {
			found, err := t.reaches(ctx, pod, targets)
			if err != nil {
				return err
			}
			for _, to := range found {
				if _, several := second[from]; strings.HasPrefix(to, from+":") && !several {
					continue // nobody keeps a pod from itself
				}
				reached = append(reached, from+" → "+to)
			}
		}
		var wrong []error
		for _, arrow := range reached {
			if !slices.Contains(allowed, arrow) {
				wrong = append(wrong, fmt.Errorf("%s is open", arrow))
			}
		}
		for _, arrow := range allowed {
			if !slices.Contains(reached, arrow) {
				wrong = append(wrong, fmt.Errorf("%s is shut", arrow))
			}
		}
		return errors.Join(wrong...)
	})
	if err != nil {
		return err
	}
	tried := len(of) * len(targets)
	t.say("of %d connections that were tried, the %d that the architecture has can be made, and no other", tried, len(reached))
	return t.line("walls", float64(tried-len(reached)), "connections refused", 0, map[string]any{"allowed": len(reached)})
}

// stranger is a pod that has nothing to do with the platform.
func (t *trial) stranger(ctx context.Context) error {
	none := int64(0)
	_, err := t.kube.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "stranger"},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &none, Containers: []corev1.Container{{
			Name: "sleep", Image: parts.Postgres, ImagePullPolicy: corev1.PullNever, Command: []string{"sleep", "3600"},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = t.kubectl(ctx, "wait", "--namespace", "default", "--for=condition=Ready", "pod/stranger", "--timeout=2m")
	return err
}

// outside listens on the machine as what lies beyond the cluster does.
type outside struct {
	ports     []int
	listeners []net.Listener
	all       sync.WaitGroup
}

func (t *trial) listenOutside() (*outside, error) {
	o := &outside{ports: []int{443, 5432}}
	for _, port := range o.ports {
		listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(t.cluster.Addresses.Host.String(), strconv.Itoa(port)))
		if err != nil {
			o.close()
			return nil, err
		}
		o.listeners = append(o.listeners, listener)
		o.all.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_ = conn.Close()
			}
		})
	}
	return o, nil
}

func (o *outside) close() {
	for _, listener := range o.listeners {
		_ = listener.Close()
	}
	o.all.Wait()
}

// reachWithin is how long a connection may take to be made; what a policy forbids is not answered.
const reachWithin = 3 * time.Second

// reaches tries targets, each a name and an address, from the network of a pod, and gives the names of those that
// a connection could be made to.
func (t *trial) reaches(ctx context.Context, pod corev1.Pod, targets []string) ([]string, error) {
	pid, err := process(pod)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	var names []string
	for _, target := range targets {
		name, address, _ := strings.Cut(target, " ")
		all.Go(func() {
			conn, err := dialFrom(ctx, pid, address)
			if err != nil {
				return
			}
			_ = conn.Close()
			mu.Lock()
			defer mu.Unlock()
			names = append(names, name)
		})
	}
	all.Wait()
	return names, nil
}

// process is one of those of a pod's container, by its id on the machine: the cgroup of each says whose it is.
func process(pod corev1.Pod) (int, error) {
	if len(pod.Status.ContainerStatuses) == 0 {
		return 0, fmt.Errorf("%s has no container", pod.Name)
	}
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil || id == "" {
		return 0, fmt.Errorf("the container of %s does not run: %w", pod.Name, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && bytes.Contains(text, []byte(id)) { // others have ended
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, fmt.Errorf("no process is of the container of %s", pod.Name)
}

// dialFrom connects from the network of a process: sockets stay in the network in which they were made.
func dialFrom(ctx context.Context, pid int, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, err // names would be looked up by other threads
	}
	type result struct {
		conn net.Conn
		err  error
	}
	made := make(chan result, 1)
	go func() {
		// The thread is in another network from here on; it ends with this goroutine.
		runtime.LockOSThread()
		there, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns", "net"))
		if err != nil {
			made <- result{err: err}
			return
		}
		defer func() { _ = there.Close() }()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		made <- result{conn, err}
	}()
	r := <-made
	return r.conn, r.err
}
