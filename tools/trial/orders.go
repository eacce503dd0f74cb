package trial

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cetrus/cetrus/tools/stack"
)

// jobWithin is how long a Job may take that is made of a CronJob.
const jobWithin = 5 * time.Minute

// orders gives orders as docs/operations tells: in a pod of the event log, and by the Job that compares log and tables.
func orders(ctx context.Context, t *trial) error {
	begun := time.Now()
	said, err := t.kubectl(ctx, "exec", "--namespace", namespace, "cetrus-nats-0", "--", "/cetrus", "quarantine", "list")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(said, "LAST CAME") {
		return fmt.Errorf("the list of what was set aside is %q", said)
	}
	listed := time.Since(begun)
	said, err = t.job(ctx, "verify")
	if err != nil {
		return err
	}
	for _, compared := range []string{"AGENT: [1-9]", "EVENTS: [1-9]", "audit log of account ", "identity: compared as of position ", "metering: compared as of position "} {
		if !regexp.MustCompile(compared).MatchString(said) {
			return fmt.Errorf("it does not say %q: %s", compared, said)
		}
	}
	return t.line("orders", listed.Seconds(), "s", 0, map[string]any{"verify_s": (time.Since(begun) - listed).Seconds()})
}

// job runs a Job of one of the platform's CronJobs now, and tells what it has said.
func (t *trial) job(ctx context.Context, of string) (said string, err error) {
	name := "cetrus-" + of + "-now"
	if _, err := t.kubectl(ctx, "create", "job", name, "--namespace", namespace, "--from=cronjob/cetrus-"+of); err != nil {
		return "", err
	}
	waiting := stack.Wait(ctx, jobWithin, "the Job "+name, func() error {
		job, err := t.kube.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range job.Status.Conditions {
			switch {
			case c.Status != corev1.ConditionTrue:
			case c.Type == batchv1.JobComplete:
				return nil
			case c.Type == batchv1.JobFailed:
				return stack.Hopeless(errors.New(c.Message))
			}
		}
		return errors.New("it has not ended")
	})
	said, err = t.kubectl(ctx, "logs", "--namespace", namespace, "job/"+name)
	if err := errors.Join(waiting, err); err != nil {
		return "", fmt.Errorf("%w: it has said: %s", err, said)
	}
	_, err = t.kubectl(ctx, "delete", "job", name, "--namespace", namespace)
	return said, err
}
