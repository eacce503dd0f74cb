package trial

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cetrus/cetrus/tools/stack"
)

// uninstall removes the platform: what docs/operations/install.md says stays is what stays, and the two commands
// that it gives remove that.
func uninstall(ctx context.Context, t *trial) error {
	if err := t.leave(ctx); err != nil {
		return err
	}
	stays := func(object string) bool {
		return strings.HasPrefix(object, "persistentvolumeclaims ") || strings.HasPrefix(object, "persistentvolumes ") || strings.HasPrefix(object, "secrets ")
	}
	if err := t.nothingBut(ctx, t.wasThere, stays); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"delete", "pvc", "--selector", "app.kubernetes.io/instance=" + t.platform.name},
		{"delete", "secret", "--selector", "app.kubernetes.io/managed-by=cetrus-secrets,app.kubernetes.io/instance=" + t.platform.name},
	} {
		said, err := t.kubectl(ctx, append(args, "--namespace", namespace)...)
		if err != nil {
			return err
		}
		if said == "" || strings.Contains(said, "No resources found") {
			return fmt.Errorf("kubectl %s: nothing is there, where the documents say that something stays", strings.Join(args, " "))
		}
	}
	if err := t.nothingBut(ctx, t.wasThere, func(string) bool { return false }); err != nil {
		return err
	}
	return t.line("uninstall_left", 0, "objects", 0, nil)
}

// leave has everybody leave the site, and Helm remove the platform.
func (t *trial) leave(ctx context.Context) error {
	stray, err := t.site.stray(ctx)
	if err == nil && stray > 0 {
		err = fmt.Errorf("in all, %d packets wanted to leave the site for elsewhere than port 443 of the Ingress", stray)
	}
	if err := errors.Join(err, t.usage.finish(ctx), t.site.stop()); err != nil {
		return err
	}
	t.usage, t.site = nil, nil
	_, err = t.helm(ctx, "uninstall", t.platform.name, "--namespace", namespace, "--wait", "--timeout", "5m")
	return err
}

// nothingBut waits until nothing is in the cluster that was not there before, but for what passes.
func (t *trial) nothingBut(ctx context.Context, before inventory, passes func(string) bool) error {
	return stack.Wait(ctx, readyWithin, "nothing to be left", func() error {
		now, err := t.inventory(ctx)
		if err != nil {
			return err
		}
		if left := now.since(before, passes); len(left) > 0 {
			return fmt.Errorf("%d are left: %s", len(left), strings.Join(left, ", "))
		}
		return nil
	})
}
