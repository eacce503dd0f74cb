package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/tools/cluster"
	"github.com/cetrus/cetrus/tools/cluster/parts"
	"github.com/cetrus/cetrus/tools/stack"
)

// TestCluster starts one, and looks at it as a workload and as the machine does.
func TestCluster(t *testing.T) {
	root := ready(t)
	bin := filepath.Join(root, "bin")
	before := traces(t)
	dir := filepath.Join(t.TempDir(), "cluster")
	begun := time.Now()
	c, err := cluster.Start(t.Context(), cluster.Config{Dir: dir, Bin: bin, Parts: []string{parts.Postgres}, Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			_ = c.Stop()
		}
	}()
	t.Logf("ready after %s", time.Since(begun).Round(time.Millisecond))

	apply(t, c, workload)
	kubectl(t, c, "rollout", "status", "statefulset/db", "--timeout=2m")
	t.Run("a claim is bound to a volume that keeps what is written", func(t *testing.T) {
		sql(t, c, "db-0", "localhost", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
		kubectl(t, c, "delete", "pod", "db-0", "--wait")
		kubectl(t, c, "rollout", "status", "statefulset/db", "--timeout=2m")
		if got := sql(t, c, "db-0", "localhost", "SELECT n FROM kept"); got != "42" {
			t.Errorf("after its pod was replaced the database says %q", got)
		}
	})
	volume := kubectl(t, c, "get", "pvc/data-db-0", "-o", "jsonpath={.spec.volumeName}")
	device := deviceOf(t, c, volume)
	t.Run("a volume is full when it holds what was claimed", func(t *testing.T) {
		said, err := query(t, c, "db-0", "localhost", "COPY (SELECT repeat('x', 1000000) FROM generate_series(1, 1100)) TO '/var/lib/postgresql/data/here/filler'")
		if err == nil || !strings.Contains(said, "No space left on device") {
			t.Errorf("a volume of 1 GiB took 1100 MB: %v: %s", err, said)
		}
		out, err := c.Command(t.Context(), "sh", "-c", "stat -c %s $1/here/filler && rm $1/here/filler", "sh", "/mnt/cluster/volumes/"+volume).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if written, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64); err != nil || written < 700<<20 {
			t.Errorf("a volume of 1 GiB is full with %d bytes (%v)", written, err)
		}
		if got := sql(t, c, "db-0", "localhost", "SELECT n FROM kept"); got != "42" {
			t.Errorf("after its disk was full the database says %q", got)
		}
	})
	kubectl(t, c, "wait", "--for=condition=Ready", "pod/other", "pod/friend", "--timeout=1m")
	t.Run("a volume goes with its claim", func(t *testing.T) {
		apply(t, c, shortlived)
		kubectl(t, c, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/brief", "--timeout=1m")
		gone := kubectl(t, c, "get", "pvc/brief", "-o", "jsonpath={.spec.volumeName}")
		free := deviceOf(t, c, gone)
		kubectl(t, c, "delete", "pod/brief", "pvc/brief", "--wait")
		eventually(t, func() error {
			if out, err := c.Command(t.Context(), "sh", "-c", "! ls -d /mnt/cluster/volumes/"+gone+"*").CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return free.released(t)
		})
	})
	t.Run("a Service is reached by its name", func(t *testing.T) {
		if got := sql(t, c, "friend", "db.default.svc.cluster.local", "SELECT n FROM kept"); got != "42" {
			t.Errorf("the Service answers %q", got)
		}
	})
	t.Run("NetworkPolicies are enforced", func(t *testing.T) {
		if out, err := query(t, c, "other", "db", "SELECT 1"); err == nil {
			t.Errorf("a pod that no policy allows got an answer: %s", out)
		}
		if got := sql(t, c, "friend", "db", "SELECT 1"); got != "1" {
			t.Errorf("a pod that a policy allows was answered %q", got)
		}
	})
	t.Run("the machine reaches pods, Services and Ingresses", func(t *testing.T) {
		reach(t, net.JoinHostPort(kubectl(t, c, "get", "pod", "other", "-o", "jsonpath={.status.podIP}"), "5432"))
		reach(t, net.JoinHostPort(kubectl(t, c, "get", "service", "open", "-o", "jsonpath={.spec.clusterIP}"), "5432"))
		reach(t, net.JoinHostPort(c.Addresses.Node.String(), kubectl(t, c, "get", "service", "open", "-o", "jsonpath={.spec.ports[0].nodePort}")))
		reach(t, net.JoinHostPort(kubectl(t, c, "get", "service", "open", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"), "5432"))
		answer, err := http.Get(fmt.Sprintf("http://%s/healthz", c.Addresses.Front))
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("the front answers %s", answer.Status)
		}
	})
	t.Run("a network beside it reaches what is in it", func(t *testing.T) {
		neighbour := exec.CommandContext(t.Context(), "unshare", "--net", "sleep", "300")
		if err := neighbour.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = neighbour.Process.Kill()
			_ = neighbour.Wait()
		}()
		eventually(t, func() error {
			name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", neighbour.Process.Pid))
			if err == nil && string(name) != "sleep\n" {
				err = fmt.Errorf("it is still %s", name)
			}
			return err
		})
		own, err := c.Neighbour(t.Context(), neighbour.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if !c.Addresses.Neighbours.Contains(own) {
			t.Errorf("it has got the address %s", own)
		}
		eventually(t, func() error {
			return exec.CommandContext(t.Context(), "nsenter", "--target", strconv.Itoa(neighbour.Process.Pid), "--net", "--",
				"timeout", "5", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/80", c.Addresses.Front)).Run()
		})
	})
	t.Run("one folder takes one cluster", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := cluster.Start(ctx, cluster.Config{Dir: dir, Bin: bin, Progress: t.Output()})
		if err == nil || !strings.Contains(err.Error(), "runs in") {
			t.Errorf("a second one in the same folder: %v", err)
		}
	})

	begun = time.Now()
	stopped = true
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	t.Logf("gone after %s", time.Since(begun).Round(time.Millisecond))
	nothingLeft(t, before, dir)
	eventually(t, func() error { return device.released(t) })
}

// TestKilledCluster kills the one who started a cluster: it goes too, and another one starts there.
func TestKilledCluster(t *testing.T) {
	root := ready(t)
	before := traces(t)
	dir := filepath.Join(t.TempDir(), "cluster")
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "cetrus-cluster"), "--dir", dir, "--bin", filepath.Join(root, "bin"))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := os.Stat(filepath.Join(dir, "log", "kubelet.log"))
		return err
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	c, err := cluster.Start(t.Context(), cluster.Config{Dir: dir, Bin: filepath.Join(root, "bin"), Progress: t.Output()})
	if err != nil {
		t.Fatalf("after one was killed, which said %s: %v", said.String(), err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, before, dir)
}

// ready skips where no cluster can run, and builds what the project has of one.
func ready(t *testing.T) (root string) {
	t.Helper()
	if testing.Short() {
		t.Skip("a cluster is not short")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("a cluster takes root")
	}
	if exec.CommandContext(t.Context(), filepath.Join(root, "tools", "bootstrap.sh"), "has", "cluster").Run() != nil {
		t.Skip("what a cluster consists of is not built here: tools/bootstrap.sh cluster does it")
	}
	for _, program := range cluster.Programs() {
		if _, err := stack.Build(t.Context(), filepath.Join(root, "bin"), program); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func kubectl(t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	var failed bytes.Buffer
	cmd := c.Kubectl(t.Context(), args...)
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, failed.String())
	}
	return strings.TrimSpace(string(out))
}

func apply(t *testing.T, c *cluster.Cluster, manifest string) {
	t.Helper()
	cmd := c.Kubectl(t.Context(), "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kubectl apply: %v: %s", err, out)
	}
}

func query(t *testing.T, c *cluster.Cluster, pod, host, statement string) (string, error) {
	t.Helper()
	out, err := c.Kubectl(t.Context(), "exec", pod, "--", "psql", "-Atqc", statement,
		fmt.Sprintf("host=%s user=app password=secret dbname=app connect_timeout=3", host)).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func sql(t *testing.T, c *cluster.Cluster, pod, host, statement string) string {
	t.Helper()
	var got string
	eventually(t, func() (err error) { // policies follow pods with a delay
		got, err = query(t, c, pod, host, statement)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, got)
		}
		return err
	})
	return got
}

func reach(t *testing.T, address string) {
	t.Helper()
	eventually(t, func() error {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// loopDevice is one that a volume is mounted by. The kernel gives its name to others later: what it
// stands for tells whether it is still the same.
type loopDevice struct{ name, file string }

func deviceOf(t *testing.T, c *cluster.Cluster, volume string) loopDevice {
	t.Helper()
	out, err := c.Command(t.Context(), "findmnt", "--noheadings", "--output", "SOURCE", "/mnt/cluster/volumes/"+volume).CombinedOutput()
	if err != nil {
		t.Fatalf("the volume %s is not mounted: %v: %s", volume, err, out)
	}
	name := strings.TrimSpace(string(out))
	return loopDevice{name: name, file: backing(t, name)}
}

func backing(t *testing.T, name string) string {
	t.Helper()
	out, _ := exec.CommandContext(t.Context(), "losetup", "--noheadings", "--output", "BACK-MAJ:MIN,BACK-INO", name).Output() // fails where it is free
	return strings.TrimSpace(string(out))
}

func (d loopDevice) released(t *testing.T) error {
	t.Helper()
	if d.file == "" || backing(t, d.name) == d.file {
		return fmt.Errorf("%s still stands for the file %s", d.name, d.file)
	}
	return nil
}

// traces is what a cluster could leave behind on this machine.
func traces(t *testing.T) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for name, command := range map[string]string{
		"interfaces": "ip -o link | grep -o 'cetrus[0-9-]*' || true",
		"routes":     "ip route",
		"mounts":     "cat /proc/self/mounts",
		"firewall":   "iptables-save | grep -v '^#' || true",
		"sets":       "ipset list -name || true",
		"namespaces": "ls /run/netns 2>/dev/null || true",
		"cgroups":    "find /sys/fs/cgroup -maxdepth 2 -type d \\( -name 'cetrus-cluster-*' -o -name 'kubepods*' -o -name 'k8s.io' \\)",
		"folders":    "ls -d /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers /run/containerd /run/cni /opt/cni /opt/containerd /etc/cni/net.d /usr/libexec/kubernetes 2>/dev/null || true",
		"settings":   "sysctl -n vm.overcommit_memory kernel.panic kernel.panic_on_oops vm.panic_on_oom net.ipv4.ip_forward",
		"processes":  "ps -eo args | grep -E '^([^ ]*/)?(kube|etcd|containerd|coredns|cluster-|network-pol)' || true",
	} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		seen[name] = string(out)
	}
	return seen
}

func nothingLeft(t *testing.T, before map[string]string, dir string) {
	t.Helper()
	for name, now := range traces(t) {
		if now != before[name] {
			t.Errorf("%s before:\n%s\nafter:\n%s", name, before[name], now)
		}
	}
	if left, _ := filepath.Glob(dir + "*"); len(left) > 0 {
		t.Errorf("left in place: %v", left)
	}
}

const workload = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      securityContext: {fsGroup: 999, runAsNonRoot: true}
      terminationGracePeriodSeconds: 5
      containers:
      - name: postgres
        image: ` + parts.Postgres + `
        imagePullPolicy: Never
        env:
        - {name: POSTGRES_USER, value: app}
        - {name: POSTGRES_PASSWORD, value: secret}
        - {name: PGDATA, value: /var/lib/postgresql/data/here}
        readinessProbe: {exec: {command: [pg_isready, -h, 127.0.0.1, -U, app]}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 5432}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {app: friend}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: sleep, image: "` + parts.Postgres + `", imagePullPolicy: Never, command: [sleep, "3600"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: other}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: postgres
    image: ` + parts.Postgres + `
    imagePullPolicy: Never
    env: [{name: POSTGRES_PASSWORD, value: secret}]
---
apiVersion: v1
kind: Service
metadata: {name: open}
spec: {type: LoadBalancer, selector: {app: other}, ports: [{port: 5432}]}
`

const shortlived = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: brief}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: brief}
spec:
  restartPolicy: Never
  containers:
  - name: write
    image: "` + parts.Postgres + `"
    imagePullPolicy: Never
    command: [sh, -c, echo kept > /data/file]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: brief}}]
`
