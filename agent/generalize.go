package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cetrus/cetrus/agent/durable"
	"github.com/cetrus/cetrus/agent/enroll"
	"github.com/cetrus/cetrus/agent/journal"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// WaitingError says that a folder holds what no Manager has yet.
type WaitingError struct {
	Dir     string
	Records uint64
}

func (e *WaitingError) Error() string {
	return fmt.Sprintf("agent: %d records in %s wait to be sent, and would be lost: let the agent reach its Manager first, or say --discard", e.Records, e.Dir)
}

// Generalize makes the folder of an agent that does not run fit to be copied: the copies
// begin as new agents, and hold nothing of this one. Settings of the installation and
// releases that were fetched stay. Where something waits to be sent it is refused, unless
// that is to be discarded. removed tells whether there was anything.
func Generalize(dir string, discard bool) (removed bool, err error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return false, fmt.Errorf("%w; stop it first", err)
	}
	defer unlock()
	if !discard {
		waiting, err := waitingIn(dir)
		if err != nil {
			return false, fmt.Errorf("agent: whether something in %s waits to be sent cannot be told (--discard removes it all the same): %w", dir, err)
		}
		if waiting > 0 {
			return false, &WaitingError{Dir: dir, Records: waiting}
		}
	}
	// Who it is goes last: what is interrupted is seen to be no new agent.
	for _, name := range []string{
		usageDir, choiceDir, ledgerDir, inheritedDir, pluginsDir, personsFile, copyOf(personsFile), settingsFile, policyFile, managersFile,
		heldFile, anewFile, controlFile, enroll.CertificateFile, enroll.KeyFile, enroll.VoucherFile, identityFile, copyOf(identityFile),
	} {
		file := filepath.Join(dir, name)
		removed = removed || exists(file)
		if err := errors.Join(os.RemoveAll(file), durable.Remove(file)); err != nil {
			return removed, fmt.Errorf("agent: %w", err)
		}
	}
	for _, file := range setAside(dir) {
		if err := durable.Remove(file); err != nil {
			return removed, fmt.Errorf("agent: %w", err)
		}
	}
	return removed, durable.SyncDir(dir)
}

// waitingIn counts the records in a folder that no Manager has acknowledged.
func waitingIn(dir string) (n uint64, err error) {
	quiet := slog.New(slog.DiscardHandler)
	dirs := []string{dir}
	inherited, err := filepath.Glob(filepath.Join(dir, inheritedDir, "*"))
	if err != nil {
		return 0, err
	}
	for _, dir := range append(dirs, inherited...) {
		for name, lane := range map[string]usagev1.Lane{usageDir: usagev1.Lane_LANE_USAGE, choiceDir: usagev1.Lane_LANE_CHOICE} {
			owner, found, err := journal.Owner(filepath.Join(dir, name))
			if err != nil {
				return n, err
			}
			if !found {
				continue
			}
			j, err := journal.Open(journal.Config{Dir: filepath.Join(dir, name), Lane: lane, AgentID: owner, Log: quiet})
			if err != nil {
				return n, err
			}
			n += j.Backlog()
			if err := j.Close(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}
