package trial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/tools/stack"
)

// managerInCluster installs the Manager's chart, has real agents enrol there by a token, over TLS, and record; loses
// its pod meanwhile; and removes it, which leaves what the documents say and nothing else.
func managerInCluster(ctx context.Context, t *trial) error {
	before, err := t.inventory(ctx)
	if err != nil {
		return err
	}
	made := &identityv1.CreateManagerResponse{}
	if err := t.usage.api.Post(ctx, "/v1/managers", &identityv1.Manager{DisplayName: "Lisbon"}, made); err != nil {
		return err
	}
	authority, err := os.ReadFile(t.trusted.file)
	if err != nil {
		return err
	}
	given := map[string]map[string][]byte{"lisbon-token": {"token": []byte(made.GetToken())}, "lisbon-authority": {"ca.crt": authority}}
	for name, data := range given {
		if _, err := t.kube.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	r := &release{t: t, name: "lisbon", chart: filepath.Join(t.current.charts, "cetrus-manager"), values: []string{
		"platform.url=wss://" + host + "/nats", "platform.api=https://" + host, "platform.caSecret=lisbon-authority", "enrolment.tokenSecret=lisbon-token",
		// A policy sees the port of the pods behind an address of the same cluster.
		"platform.port=8443",
	}}
	took, err := r.install(ctx)
	if err != nil {
		return err
	}
	at, err := r.admit(ctx)
	if err != nil {
		return err
	}
	desks, err := t.usage.open(ctx, 3, at)
	if err != nil {
		return err
	}
	lost, err := r.losesItsPod(ctx)
	if err := errors.Join(err, desks.close(ctx)); err != nil {
		return err
	}
	if err := t.compare(ctx); err != nil {
		return err
	}
	t.say("a Manager in the cluster is ready after %.1f s, and %.1f s after it has lost its pod", took.Seconds(), lost.Seconds())
	if err := r.remove(ctx, before, given); err != nil {
		return err
	}
	return t.line("manager", took.Seconds(), "s", readyWithin.Seconds(), map[string]any{"pod_lost_s": lost.Seconds()})
}

// admit makes a token by which agents enrol at the Manager of a release, and tells where that is.
func (r *release) admit(ctx context.Context) (place, error) {
	service, err := r.t.kube.CoreV1().Services(namespace).Get(ctx, r.name+"-cetrus-manager", metav1.GetOptions{})
	if err != nil {
		return place{}, err
	}
	if len(service.Status.LoadBalancer.Ingress) == 0 {
		return place{}, fmt.Errorf("%s has no address for agents", r.name)
	}
	token, err := r.t.kubectl(ctx, "exec", r.name+"-cetrus-manager-0", "--namespace", namespace, "--", "/cetrus-manager", "token", "create", "--uses", "10")
	return place{manager: net.JoinHostPort(service.Status.LoadBalancer.Ingress[0].IP, "10041"), token: strings.TrimSpace(token)}, err
}

// losesItsPod kills the Manager's pod once agents have recorded for a while, and waits until it serves them again.
func (r *release) losesItsPod(ctx context.Context) (time.Duration, error) {
	before := r.t.usage.recordedByDesks()
	if err := stack.Wait(ctx, 3*time.Minute, "agents to record at "+r.name, func() error {
		if now := r.t.usage.recordedByDesks() - before; now < 30 {
			return fmt.Errorf("%d events are recorded", now)
		}
		return nil
	}); err != nil {
		return 0, err
	}
	pods, err := r.pods(ctx)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	now := int64(0)
	if err := r.t.kill(ctx, pods[0]); err != nil {
		return 0, err
	}
	if err := r.t.kube.CoreV1().Pods(namespace).Delete(ctx, pods[0].Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		return 0, err
	}
	return r.healed(ctx, pods[0], begun)
}

// remove uninstalls the Manager and what it was given; its volume stays, as its chart says, until it is removed.
func (r *release) remove(ctx context.Context, before inventory, given map[string]map[string][]byte) error {
	if _, err := r.t.helm(ctx, "uninstall", r.name, "--namespace", namespace, "--wait", "--timeout", "5m"); err != nil {
		return err
	}
	claims, err := r.t.kube.CoreV1().PersistentVolumeClaims(namespace).List(ctx, r.selector())
	if err != nil {
		return err
	}
	if len(claims.Items) != 1 {
		return fmt.Errorf("%d volumes of %s are kept, not one", len(claims.Items), r.name)
	}
	failures := []error{r.t.kube.CoreV1().PersistentVolumeClaims(namespace).Delete(ctx, claims.Items[0].Name, metav1.DeleteOptions{})}
	for name := range given {
		failures = append(failures, r.t.kube.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{}))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	ours := func(object string) bool { return !strings.Contains(object, r.name) }
	return r.t.nothingBut(ctx, before, ours)
}
