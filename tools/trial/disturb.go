package trial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cetrus/cetrus/tools/stack"
)

// everyPod deletes every pod in turn.
func everyPod(ctx context.Context, t *trial) error {
	pods, err := t.platform.pods(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	var times []time.Duration
	for _, pod := range pods {
		took, err := t.lose(ctx, pod, false)
		if err != nil {
			return err
		}
		t.say("%s was deleted: ready again after %.1f s", pod.Name, took.Seconds())
		times = append(times, took)
	}
	return t.recovered("pods_in_turn", times)
}

// anyPod deletes pods at random, as they are asked to end or at once, for as long as it was asked for. Real agents
// work meanwhile.
func anyPod(ctx context.Context, t *trial) error {
	desks, err := t.usage.open(ctx, 3, t.site.place())
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			_ = desks.close(ctx)
		}
	}()
	var times []time.Duration
	for until := time.Now().Add(t.Random); time.Now().Before(until) || len(times) == 0; {
		pods, err := t.platform.pods(ctx)
		if err != nil {
			return err
		}
		slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
		pod, atOnce := pods[t.random.IntN(len(pods))], t.random.IntN(2) == 0
		took, err := t.lose(ctx, pod, atOnce)
		if err != nil {
			return err
		}
		how := "was deleted"
		if atOnce {
			how = "was killed and deleted"
		}
		t.say("%s %s: ready again after %.1f s", pod.Name, how, took.Seconds())
		times = append(times, took)
	}
	closed = true
	if err := desks.close(ctx); err != nil {
		return err
	}
	return t.recovered("pods_at_random", times)
}

// recovered writes how long the platform took to be ready again.
func (t *trial) recovered(name string, times []time.Duration) error {
	slices.Sort(times)
	return t.line(name, times[len(times)-1].Seconds(), "s", readyWithin.Seconds(), map[string]any{
		"pods": len(times), "median_s": times[len(times)/2].Seconds(),
	})
}

// lose deletes a pod and tells how long it takes until the platform is ready again, with another in its place.
func (t *trial) lose(ctx context.Context, pod corev1.Pod, atOnce bool) (time.Duration, error) {
	begun := time.Now()
	options := metav1.DeleteOptions{}
	if atOnce {
		now := int64(0)
		options.GracePeriodSeconds = &now
		if err := t.kill(ctx, pod); err != nil {
			return 0, err
		}
	}
	if err := t.kube.CoreV1().Pods(namespace).Delete(ctx, pod.Name, options); err != nil {
		return 0, err
	}
	return t.platform.healed(ctx, pod, begun)
}

// healed waits until a pod is gone and the release ready.
func (r *release) healed(ctx context.Context, pod corev1.Pod, begun time.Time) (time.Duration, error) {
	err := stack.Wait(ctx, readyWithin, r.name+" to be ready without "+pod.Name, func() error {
		now, err := r.t.kube.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && now.UID == pod.UID {
			return errors.New("it is still there")
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		return r.unready(ctx)
	})
	return time.Since(begun), err
}

// kill ends the processes of a pod's container as a power cut would: SIGKILL to its first, and the kernel ends the
// others.
func (t *trial) kill(ctx context.Context, pod corev1.Pod) error {
	if len(pod.Status.ContainerStatuses) == 0 {
		return fmt.Errorf("%s has no container yet", pod.Name)
	}
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	if id == "" { // it has not begun, or has ended
		return nil
	}
	out, err := t.cluster.Command(ctx, "ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "not found") && !strings.Contains(string(out), "already finished") {
		return fmt.Errorf("killing %s: %w: %s", pod.Name, err, out)
	}
	return nil
}

// loseLog takes from each server of the event log its volume, one after the other, each once the one before is
// level again: then nothing is left of what was there first but what the others had of it.
func loseLog(ctx context.Context, t *trial) error {
	var times []time.Duration
	for server := range 3 {
		name := fmt.Sprintf("cetrus-nats-%d", server)
		pod, err := t.kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		begun := time.Now()
		claim := "data-" + name
		was, err := t.kube.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := t.kube.CoreV1().PersistentVolumeClaims(namespace).Delete(ctx, claim, metav1.DeleteOptions{}); err != nil {
			return err
		}
		if _, err := t.lose(ctx, *pod, true); err != nil {
			return err
		}
		is, err := t.kube.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if is.UID == was.UID {
			return fmt.Errorf("%s still has its volume", name)
		}
		t.say("%s has lost its volume: level again after %.1f s", name, time.Since(begun).Seconds())
		times = append(times, time.Since(begun))
	}
	return t.recovered("log_volumes_lost", times)
}

// killDatabase kills PostgreSQL, and lets it come back in the same pod.
func killDatabase(ctx context.Context, t *trial) error {
	pod, err := t.kube.CoreV1().Pods(namespace).Get(ctx, "cetrus-postgres-0", metav1.GetOptions{})
	if err != nil {
		return err
	}
	before := pod.Status.ContainerStatuses[0].RestartCount
	begun := time.Now()
	if err := t.kill(ctx, *pod); err != nil {
		return err
	}
	if err := stack.Wait(ctx, readyWithin, "PostgreSQL to be started again", func() error {
		now, err := t.kube.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := now.Status.ContainerStatuses; len(s) == 0 || s[0].RestartCount == before {
			return errors.New("it has not been yet")
		}
		return t.platform.unready(ctx)
	}); err != nil {
		return err
	}
	took := time.Since(begun)
	t.say("PostgreSQL was killed: ready again after %.1f s", took.Seconds())
	return t.recovered("database_killed", []time.Duration{took})
}
