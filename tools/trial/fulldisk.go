package trial

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cetrus/cetrus/tools/cluster"
	"github.com/cetrus/cetrus/tools/stack"
)

// waitingWhileFull is how many messages wait at the Manager before there is room again.
const waitingWhileFull = 20

// noRoom is how programs say that a disk is full.
var noRoom = regexp.MustCompile(`(?i)no space left|out of .*(space|resources|storage)|insufficient (storage )?resources|disk full`)

// fullLog fills the volumes of all servers of the event log: nothing more is taken, the Manager keeps what comes and
// says why, and once there is room everything goes on.
func fullLog(ctx context.Context, t *trial) error {
	claims := []string{"data-cetrus-nats-0", "data-cetrus-nats-1", "data-cetrus-nats-2"}
	return t.full(ctx, "log_disk_full", "cetrus-nats", claims, func(ctx context.Context) (string, error) {
		status, err := t.site.status(ctx)
		if err != nil {
			return "", err
		}
		if status.Backlog < waitingWhileFull {
			return "", fmt.Errorf("%d messages wait at the Manager", status.Backlog)
		}
		for _, lane := range status.Forward {
			if lane.Trouble != "" {
				return fmt.Sprintf("%d messages wait at the Manager, which says: %s", status.Backlog, lane.Trouble), nil
			}
		}
		return "", fmt.Errorf("%d messages wait at the Manager, which does not say why", status.Backlog)
	})
}

// fullDatabase fills the volume of PostgreSQL: counting stands still, and goes on once there is room.
func fullDatabase(ctx context.Context, t *trial) error {
	return t.full(ctx, "database_disk_full", "cetrus-postgres", []string{"data-cetrus-postgres-0"}, func(ctx context.Context) (string, error) {
		for _, args := range [][]string{{"--selector", "app.kubernetes.io/component=metering"}, {"cetrus-postgres-0"}, {"cetrus-postgres-0", "--previous"}} {
			said, err := t.kubectl(ctx, append([]string{"logs", "--namespace", namespace, "--since", "5m", "--tail", "200"}, args...)...)
			if err != nil {
				continue // it has not been started again
			}
			for line := range strings.Lines(said) {
				if noRoom.MatchString(line) {
					return strings.TrimSpace(line), nil
				}
			}
		}
		return "", errors.New("nobody says that a disk is full")
	})
}

// full fills volumes, waits until it is told that something is wrong, makes room again, and waits until the platform
// is ready.
func (t *trial) full(ctx context.Context, name, workload string, claims []string, told func(context.Context) (string, error)) error {
	var folders []string
	for _, claim := range claims {
		found, err := t.kube.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, metav1.GetOptions{})
		if err != nil {
			return err
		}
		folders = append(folders, filepath.Join(cluster.NodeDir, "volumes", found.Spec.VolumeName))
	}
	room := func(ctx context.Context) (failures error) {
		for _, folder := range folders {
			if out, err := t.cluster.Command(ctx, "rm", "--force", filepath.Join(folder, filler)).CombinedOutput(); err != nil {
				failures = errors.Join(failures, fmt.Errorf("making room: %w: %s", err, out))
			}
		}
		return failures
	}
	defer func() { _ = room(context.WithoutCancel(ctx)) }() // done already, but where something failed
	begun := time.Now()
	for _, folder := range folders {
		if err := t.fill(ctx, folder); err != nil {
			return err
		}
	}
	var said string
	if err := stack.Wait(ctx, readyWithin, "somebody to say that a disk is full", func() (err error) {
		said, err = told(ctx)
		return err
	}); err != nil {
		return err
	}
	after := time.Since(begun)
	t.say("%.1f s after the disk was full: %s", after.Seconds(), said)
	logs, err := t.kubectl(ctx, "logs", "--namespace", namespace, "--selector", "app.kubernetes.io/part-of=cetrus", "--since", "5m", "--tail", "2000", "--prefix", "--max-log-requests", "50")
	if err != nil {
		return err
	}
	words := 0
	for line := range strings.Lines(logs) {
		if strings.Contains(line, workload) && noRoom.MatchString(line) {
			if words++; words == 1 {
				t.say("%s", strings.TrimSpace(line))
			}
		}
	}
	if err := room(ctx); err != nil {
		return err
	}
	healing := time.Now()
	if err := t.platform.ready(ctx); err != nil {
		return err
	}
	healed := time.Since(healing)
	t.say("there is room: ready again after %.1f s", healed.Seconds())
	return t.line(name, healed.Seconds(), "s", readyWithin.Seconds(), map[string]any{"told_after_s": after.Seconds(), "said": said, "lines_of_the_full_one": words})
}

// filler is the file that fills a volume.
const filler = "filler"

// fill fills a volume to the last block.
func (t *trial) fill(ctx context.Context, folder string) error {
	out, err := t.cluster.Command(ctx, "sh", "-c", `
		mountpoint -q "$1" || { echo "$1 has no limit: no loop device can be had here"; exit 1; }
		fallocate -l "$(($(stat -f -c '%a*%S' "$1")))" "$1/$2" || true # as much as can be had at once
		dd if=/dev/zero of="$1/$2" bs=4k oflag=append conv=notrunc 2>&1 | grep -q 'No space left' || { echo "$1 is not full"; exit 1; }`,
		"sh", folder, filler).CombinedOutput()
	if err != nil {
		return fmt.Errorf("filling a disk: %w: %s", err, out)
	}
	return nil
}
