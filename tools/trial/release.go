package trial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cetrus/cetrus/tools/stack"
)

// namespace is where everything is installed. It enforces restricted pods.
const namespace = "cetrus"

// readyWithin is how long the platform may take to be ready after whatever happened to it, on a machine that has
// other work too.
const readyWithin = 5 * time.Minute

// release is a chart that is installed.
type release struct {
	t     *trial
	name  string
	chart string
	// values are what is set beside the defaults, as --set takes it.
	values []string
}

// helm runs Helm as the administrator.
func (t *trial) helm(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(t.Bin, "helm"), args...)
	home := filepath.Join(t.Dir, "helm")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+t.cluster.Kubeconfig, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var said, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &failed
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(failed.String()))
	}
	return said.String(), nil
}

// kubectl runs kubectl as the administrator and gives what it says.
func (t *trial) kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := t.cluster.Kubectl(ctx, args...)
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(failed.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// apply gives the cluster objects.
func (t *trial) apply(ctx context.Context, manifest string) error {
	cmd := t.cluster.Kubectl(ctx, "apply", "--filename", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	return nil
}

func (r *release) settings() []string {
	args := []string{"--namespace", namespace}
	for _, value := range r.values {
		args = append(args, "--set", value)
	}
	return args
}

// install installs it, and tells how long that took until all was ready.
func (r *release) install(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	_, err := r.t.helm(ctx, append([]string{"install", r.name, r.chart, "--wait", "--timeout", "10m"}, r.settings()...)...)
	return time.Since(begun), err
}

// test runs `helm test`.
func (r *release) test(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	_, err := r.t.helm(ctx, "test", r.name, "--namespace", namespace, "--timeout", "2m")
	return time.Since(begun), err
}

func (r *release) selector() metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + r.name}
}

// pods are those of the release that go on running: not those of Jobs.
func (r *release) pods(ctx context.Context) ([]corev1.Pod, error) {
	all, err := r.t.kube.CoreV1().Pods(namespace).List(ctx, r.selector())
	if err != nil {
		return nil, err
	}
	var pods []corev1.Pod
	for _, pod := range all.Items {
		if owner := metav1.GetControllerOf(&pod); owner != nil && owner.Kind != "Job" {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

// ready waits until all that the release consists of is ready and up to date, and nothing of what was there before
// is left.
func (r *release) ready(ctx context.Context) error {
	return stack.Wait(ctx, readyWithin, r.name+" to be ready", func() error { return r.unready(ctx) })
}

// unready says what is not ready; nil: everything is.
func (r *release) unready(ctx context.Context) error {
	deployments, err := r.t.kube.AppsV1().Deployments(namespace).List(ctx, r.selector())
	if err != nil {
		return err
	}
	sets, err := r.t.kube.AppsV1().StatefulSets(namespace).List(ctx, r.selector())
	if err != nil {
		return err
	}
	var waiting []error
	wanted := 0
	for _, d := range deployments.Items {
		wanted += int(*d.Spec.Replicas)
		waiting = append(waiting, unreadyDeployment(d))
	}
	for _, s := range sets.Items {
		wanted += int(*s.Spec.Replicas)
		waiting = append(waiting, unreadySet(s))
	}
	if len(deployments.Items)+len(sets.Items) == 0 {
		waiting = append(waiting, errors.New("nothing is there"))
	}
	pods, err := r.pods(ctx)
	if err == nil && len(pods) != wanted {
		err = fmt.Errorf("%d pods are there, of %d", len(pods), wanted)
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil || !isReady(pod) { // what their owners say of them comes later
			waiting = append(waiting, fmt.Errorf("%s is not ready", pod.Name))
		}
	}
	return errors.Join(append(waiting, err)...)
}

func isReady(pod corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func unreadyDeployment(d appsv1.Deployment) error {
	s := d.Status
	if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != *d.Spec.Replicas || s.ReadyReplicas != *d.Spec.Replicas || s.Replicas != *d.Spec.Replicas {
		return fmt.Errorf("%s: %d of %d are ready, %d up to date", d.Name, s.ReadyReplicas, *d.Spec.Replicas, s.UpdatedReplicas)
	}
	return nil
}

func unreadySet(d appsv1.StatefulSet) error {
	s := d.Status
	if s.ObservedGeneration < d.Generation || s.CurrentRevision != s.UpdateRevision || s.ReadyReplicas != *d.Spec.Replicas || s.Replicas != *d.Spec.Replicas {
		return fmt.Errorf("%s: %d of %d are ready, %d up to date", d.Name, s.ReadyReplicas, *d.Spec.Replicas, s.UpdatedReplicas)
	}
	return nil
}
