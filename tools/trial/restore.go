package trial

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/tools/cluster"
	"github.com/cetrus/cetrus/tools/cluster/parts"
	"github.com/cetrus/cetrus/tools/load"
	"github.com/cetrus/cetrus/tools/recount"
	"github.com/cetrus/cetrus/tools/stack"
)

// storageNamespace has the storage of backups, which outlives the platform.
const storageNamespace = "storage"

// storage is an S3 server, as somebody else runs it.
const storage = `
apiVersion: v1
kind: Namespace
metadata: {name: ` + storageNamespace + `}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: objects, namespace: ` + storageNamespace + `}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 4Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: s3, namespace: ` + storageNamespace + `, labels: {app: s3}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: s3
    image: ` + parts.S3 + `
    imagePullPolicy: Never
    args: [--access, keeper, --secret, keepers-secret, --port, ":7070", --quiet, posix, /objects]
    readinessProbe: {tcpSocket: {port: 7070}, periodSeconds: 1}
    volumeMounts: [{name: objects, mountPath: /objects}]
  volumes: [{name: objects, persistentVolumeClaim: {claimName: objects}}]
---
apiVersion: v1
kind: Service
metadata: {name: s3, namespace: ` + storageNamespace + `}
spec: {selector: {app: s3}, ports: [{port: 7070}]}
`

// backupValues have the chart back up to that storage.
var backupValues = []string{
	"backup.url=s3://backups/cetrus?endpoint=http://s3." + storageNamespace + ".svc:7070&region=us-east-1", "backup.secret=backups",
}

var backupPosition = regexp.MustCompile(`AGENT up to (\d+), EVENTS up to (\d+)`)

// restoreDrill backs the platform up while agents record, removes all of it with its volumes and Secrets, and puts the
// backup back into a new installation, as docs/operations/backup.md tells. What that counts is to the millisecond what the
// log told up to the backup's position, which was read before it was destroyed and lies between what was recorded before
// the backup and after it; and once the Manager is back, which keeps what it has sent, nothing is missing.
func restoreDrill(ctx context.Context, t *trial) error {
	former := t.platform.values
	defer func() { t.platform.values = former }()
	if err := t.openStorage(ctx); err != nil {
		return err
	}
	t.platform.values = append(former[:len(former):len(former)], backupValues...)
	if err := t.platform.upgrade(ctx); err != nil {
		return err
	}
	if err := t.compare(ctx); err != nil {
		return err
	}
	before, err := t.usage.reported(ctx) // so the log has it
	if err != nil {
		return err
	}
	events, begun := t.usage.ledger.Events(), time.Now()
	position, err := t.backUp(ctx)
	if err != nil {
		return err
	}
	backedUp := time.Since(begun)
	after := t.usage.recorded().Millis()
	if events == t.usage.ledger.Events() {
		return errors.New("nothing was recorded while the backup was made")
	}

	// The Manager is away: it would send again what the platform has forgotten.
	t.site.manager.Signal(syscall.SIGSTOP)
	defer func() { t.site.manager.Signal(syscall.SIGCONT) }()
	truth, err := t.logUpTo(ctx, position)
	if err != nil {
		return err
	}
	if err := between(before, truth, after); err != nil {
		return err
	}
	key, err := t.kube.CoreV1().Secrets(namespace).Get(ctx, "cetrus-archive-key", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := t.destroy(ctx); err != nil {
		return err
	}
	if _, err := t.kube.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: key.Name, Labels: key.Labels}, Data: key.Data}, metav1.CreateOptions{}); err != nil {
		return err
	}
	begun = time.Now()
	restoring := *t.platform
	restoring.values = append(t.platform.values[:len(t.platform.values):len(t.platform.values)], "restore.enabled=true")
	if _, err := restoring.install(ctx); err != nil {
		return err
	}
	if _, err := t.kubectl(ctx, "wait", "--namespace", namespace, "--for=condition=Complete", "job/cetrus-restore", "--timeout=5m"); err != nil {
		said, _ := t.kubectl(ctx, "logs", "--namespace", namespace, "job/cetrus-restore")
		return fmt.Errorf("%w: it has said: %s", err, said)
	}
	if err := t.platform.upgrade(ctx); err != nil {
		return err
	}
	if err := t.level(ctx); err != nil {
		return err
	}
	restored := time.Since(begun)
	reported, err := t.usage.reported(ctx)
	if err != nil {
		return err
	}
	if err := between(truth, reported, truth); err != nil {
		return fmt.Errorf("what was restored is not what the log had up to %d: %w", position, err)
	}
	t.say("backed up at %d of AGENT within %.1f s; restored and counted %.1f s after a new installation was begun", position, backedUp.Seconds(), restored.Seconds())

	t.site.manager.Signal(syscall.SIGCONT)
	if err := t.compare(ctx); err != nil {
		return err
	}
	// As it was before.
	t.platform.values = former
	if err := errors.Join(t.platform.upgrade(ctx), t.closeStorage(ctx)); err != nil {
		return err
	}
	return t.line("restored", restored.Seconds(), "s", 0, map[string]any{"backup_s": backedUp.Seconds(), "position": position})
}

// upgrade gives the release its values, and waits until it is ready.
func (r *release) upgrade(ctx context.Context) error {
	if _, err := r.t.helm(ctx, append([]string{"upgrade", r.name, r.chart, "--wait", "--timeout", "10m"}, r.settings()...)...); err != nil {
		return err
	}
	return r.ready(ctx)
}

// openStorage starts the storage of backups, with a bucket, and gives the platform its keys.
func (t *trial) openStorage(ctx context.Context) error {
	if err := t.apply(ctx, storage); err != nil {
		return err
	}
	if _, err := t.kubectl(ctx, "wait", "--namespace", storageNamespace, "--for=condition=Ready", "pod/s3", "--timeout=3m"); err != nil {
		return err
	}
	claim, err := t.kube.CoreV1().PersistentVolumeClaims(storageNamespace).Get(ctx, "objects", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if out, err := t.cluster.Command(ctx, "mkdir", "--mode", "777", filepath.Join(cluster.NodeDir, "volumes", claim.Spec.VolumeName, "backups")).CombinedOutput(); err != nil {
		return fmt.Errorf("making a bucket: %w: %s", err, out)
	}
	_, err = t.kube.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "backups"},
		Data:       map[string][]byte{"AWS_ACCESS_KEY_ID": []byte("keeper"), "AWS_SECRET_ACCESS_KEY": []byte("keepers-secret")},
	}, metav1.CreateOptions{})
	return err
}

func (t *trial) closeStorage(ctx context.Context) error {
	if err := t.kube.CoreV1().Secrets(namespace).Delete(ctx, "backups", metav1.DeleteOptions{}); err != nil {
		return err
	}
	_, err := t.kubectl(ctx, "delete", "namespace", storageNamespace, "--wait", "--timeout=3m")
	return err
}

// backUp has a backup made now, and tells at which position of AGENT.
func (t *trial) backUp(ctx context.Context) (uint64, error) {
	said, err := t.job(ctx, "backup")
	if err != nil {
		return 0, err
	}
	at := backupPosition.FindStringSubmatch(said)
	if at == nil {
		return 0, fmt.Errorf("the backup does not say how far it goes: %s", said)
	}
	return strconv.ParseUint(at[1], 10, 64)
}

// forwarding is what kubectl says once it carries a port.
var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+) `)

// forward carries a port of a pod to one of this machine until the context ends, past all policies, as an operator may.
func (t *trial) forward(ctx context.Context, pod string, port int) (local string, wait func() error, err error) {
	cmd := t.cluster.Kubectl(ctx, "port-forward", "--namespace", namespace, "pod/"+pod, fmt.Sprintf(":%d", port))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	at := forwarding.FindStringSubmatch(line)
	if at == nil {
		return "", cmd.Wait, fmt.Errorf("kubectl port-forward said %q: %w", line, errors.Join(err, errors.New("no port")))
	}
	return "127.0.0.1:" + at[1], cmd.Wait, nil
}

// logUpTo reads the event log up to a position as its operator, and adds up again what agents told in it.
func (t *trial) logUpTo(ctx context.Context, position uint64) (map[load.Key]int64, error) {
	secret, err := t.kube.CoreV1().Secrets(namespace).Get(ctx, "cetrus-nats-operator", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	authority, err := t.kube.CoreV1().Secrets(namespace).Get(ctx, "cetrus-tls-nats", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority.Data["ca.crt"]) {
		return nil, errors.New("the Secret cetrus-tls-nats has no authority")
	}
	carrying, stop := context.WithCancel(ctx)
	at, carried, err := t.forward(carrying, "cetrus-nats-0", 4222)
	defer func() {
		stop()
		if carried != nil {
			_ = carried() // it was killed
		}
	}()
	if err != nil {
		return nil, err
	}
	operator := natsserver.RoleUser(natsserver.Operator, strings.TrimSpace(string(secret.Data["nats-password"])))
	nc, err := nats.Connect("tls://"+at, append(operator.Options(),
		nats.Secure(&tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}), nats.IgnoreDiscoveredServers())...)
	if err != nil {
		return nil, fmt.Errorf("the event log: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	consumer, err := js.OrderedConsumer(ctx, contract.AgentStream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, fmt.Errorf("the event log: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	facts := recount.New(time.UTC)
	for at := uint64(0); at < position; {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("the event log behind %d: %w", at, err)
		}
		meta, err := message.Metadata()
		if err != nil {
			return nil, err
		}
		if at = meta.Sequence.Stream; at > position {
			break
		}
		batch := &usagev1.AgentBatch{}
		if err := proto.Unmarshal(message.Data(), batch); err != nil {
			return nil, err
		}
		for _, frame := range batch.GetFrames() {
			if err := facts.Read(contract.ID{}, frame); err != nil {
				return nil, err
			}
		}
	}
	millis := map[load.Key]int64{}
	for instance, totals := range facts.OfInstances() {
		for attention, ms := range totals.Millis {
			millis[load.Key{Instance: instance, Attention: usagev1.Attention(attention)}] = ms
		}
	}
	return millis, nil
}

// destroy removes the platform with all that it has kept.
func (t *trial) destroy(ctx context.Context) error {
	for _, args := range [][]string{
		{"delete", "pvc", "--selector", "app.kubernetes.io/instance=" + t.platform.name, "--wait=false"},
		{"delete", "secret", "--selector", "app.kubernetes.io/managed-by=cetrus-secrets,app.kubernetes.io/instance=" + t.platform.name},
	} {
		if _, err := t.kubectl(ctx, append(args, "--namespace", namespace)...); err != nil {
			return err
		}
	}
	if _, err := t.helm(ctx, "uninstall", t.platform.name, "--namespace", namespace, "--wait", "--timeout", "5m"); err != nil {
		return err
	}
	return stack.Wait(ctx, readyWithin, "the volumes to be gone", func() error {
		claims, err := t.kube.CoreV1().PersistentVolumeClaims(namespace).List(ctx, t.platform.selector())
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if len(claims.Items) > 0 {
			return fmt.Errorf("%d are there", len(claims.Items))
		}
		return nil
	})
}

// level waits until metering has counted all that the log has.
func (t *trial) level(ctx context.Context) error {
	return stack.Wait(ctx, readyWithin, "what was restored to be counted", func() error {
		reported, err := t.usage.reported(ctx)
		if err != nil {
			return err
		}
		quality, err := t.usage.quality(ctx)
		if err == nil && (quality.GetLag() > 0 || len(reported) == 0) {
			err = fmt.Errorf("metering has %d messages to count, and reports %d figures", quality.GetLag(), len(reported))
		}
		return err
	})
}

// between tells of what is less than it was before, or more than after.
func between(before, reported, after map[load.Key]int64) error {
	for key, millis := range before {
		if reported[key] < millis {
			return fmt.Errorf("of %+v %d ms are there, and %d were before", key, reported[key], millis)
		}
	}
	for key, millis := range reported {
		if after[key] < millis {
			return fmt.Errorf("of %+v %d ms are there, and %d were after", key, millis, after[key])
		}
	}
	return nil
}
