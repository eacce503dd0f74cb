package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cetrus/cetrus/agent/durable"
	"github.com/cetrus/cetrus/agent/enroll"
	"github.com/cetrus/cetrus/agent/fingerprint"
	"github.com/cetrus/cetrus/agent/journal"
	"github.com/cetrus/cetrus/agent/uplink"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

const (
	// inheritedDir holds, by agent, the journals of agents that this machine is a copy of.
	inheritedDir = "inherited"
	// anewFile says that this agent must begin as another one at its next start.
	anewFile = "anew"
	// partedFile lies beside inherited journals that have an epoch of their own.
	partedFile = "parted"
)

// ErrBeginAnew is what Run returns, after it has stopped in good order, where the agent
// must begin as another one, since its Manager hears two machines under its id.
var ErrBeginAnew = errors.New("agent: another machine is this agent; this one begins as a new agent")

// belong settles who the agent is on the machine that it finds itself on. Where the folder
// was copied from another machine, it begins as a new agent, and what the folder holds of
// the other one is inherited: kept apart, and sent under the other's name. restored tells
// that the machine was put back to an earlier state, so that others may know records under
// the journals' numbers.
func belong(dir string, deps Deps) (id identity, restored bool, err error) {
	traits := deps.Traits
	if traits == nil {
		traits = fingerprint.Read
	}
	id, found, err := loadIdentity(dir, deps.Log)
	if err != nil {
		return identity{}, false, err
	}
	read := traits()
	if !found {
		id, err = drawIdentity(dir, read, deps)
		return id, false, err
	}
	if exists(filepath.Join(dir, anewFile)) {
		deps.Log.Warn("two machines are this agent: this one goes on as a new agent", "agent_id", id.AgentID)
		id, err = leave(dir, id, read, deps)
		return id, false, err
	}
	if id.Machine == nil {
		// The folder is older than fingerprints, or its fingerprint is damaged.
		return id, false, bind(dir, &id, read, deps)
	}
	verdict, now := fingerprint.Compare(*id.Machine, read)
	if verdict == fingerprint.Other {
		deps.Log.Warn("the data folder was copied from another machine: this one goes on as a new agent", "agent_id", id.AgentID, "data_dir", dir)
		id, err = leave(dir, id, read, deps)
		return id, false, err
	}
	if verdict == fingerprint.Restored {
		deps.Log.Warn("this virtual machine was put back to an earlier state: the journal goes on in a new epoch")
	}
	if fingerprint.Equal(*id.Machine, now) {
		return id, false, nil
	}
	if id.Machine = &now; verdict == fingerprint.Restored {
		return id, true, nil // part writes it, once the journals have new epochs
	}
	return id, false, writeIdentity(dir, id)
}

// bind writes down on which machine the folder lies.
func bind(dir string, id *identity, read fingerprint.Traits, deps Deps) error {
	now, err := fingerprint.New(deps.Random, read)
	if err != nil {
		return err
	}
	id.Machine = &now
	return writeIdentity(dir, *id)
}

// leave sets aside what belongs to the agent that was, and begins as another one. The new
// identity is written last: where this is interrupted, it is begun again.
func leave(dir string, was identity, read fingerprint.Traits, deps Deps) (identity, error) {
	into := filepath.Join(dir, inheritedDir, was.AgentID.String())
	for n := 2; exists(filepath.Join(into, usageDir)) && exists(filepath.Join(dir, usageDir)); n++ {
		into = filepath.Join(dir, inheritedDir, was.AgentID.String()+"-"+strconv.Itoa(n))
	}
	err := os.MkdirAll(into, 0o700)
	if err == nil {
		err = writeIdentity(into, was)
	}
	for _, name := range []string{personsFile, copyOf(personsFile), enroll.CertificateFile} {
		if err == nil {
			err = copyFile(filepath.Join(dir, name), filepath.Join(into, name))
		}
	}
	if err == nil {
		// It shows to the Manager whose copy this is, which so needs no token.
		err = copyFile(filepath.Join(dir, enroll.CertificateFile), filepath.Join(dir, enroll.VoucherFile))
	}
	for _, name := range []string{usageDir, choiceDir} {
		if err == nil && exists(filepath.Join(dir, name)) {
			err = os.Rename(filepath.Join(dir, name), filepath.Join(into, name))
		}
	}
	// Aliases are an agent's own, and programs that wait are the other machine's.
	for _, name := range []string{personsFile, copyOf(personsFile), heldFile, enroll.CertificateFile, enroll.KeyFile} {
		if err == nil {
			err = durable.Remove(filepath.Join(dir, name))
		}
	}
	if err == nil {
		err = os.RemoveAll(filepath.Join(dir, ledgerDir)) // it goes by those aliases
	}
	for _, d := range []string{into, filepath.Join(dir, inheritedDir), dir} {
		if err == nil {
			err = durable.SyncDir(d)
		}
	}
	if err != nil {
		return identity{}, fmt.Errorf("agent: set aside what belongs to agent %s, which this folder was copied from: %w", was.AgentID, err)
	}
	id, err := drawIdentity(dir, read, deps)
	if err != nil {
		return identity{}, err
	}
	deps.Log.Info("began as a new agent", "agent_id", id.AgentID, "was", was.AgentID)
	return id, durable.Remove(filepath.Join(dir, anewFile))
}

// copyFile copies a file where there is one.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.Replace(to, data)
}

// part gives a restored machine's journals an epoch of their own, and then writes down that
// it is done.
func (a *Agent) part() error {
	if err := a.journal.NewEpoch(); err != nil {
		return err
	}
	if err := a.plugins.choices.NewEpoch(); err != nil {
		return err
	}
	return writeIdentity(a.config.DataDir, a.identity)
}

// beginAnew is called by the uplink, once the Manager has said so.
func (a *Agent) beginAnew() error {
	if err := durable.Replace(filepath.Join(a.config.DataDir, anewFile), []byte(a.identity.AgentID.String()+"\n")); err != nil {
		return err
	}
	a.anewOnce.Do(func() { close(a.anew) })
	return nil
}

func (a *Agent) toBeginAnew() bool {
	select {
	case <-a.anew:
		return true
	default:
		return false
	}
}

// inheritance is what the folder holds of an agent that lives, or lived, elsewhere: what no
// Manager had acknowledged. It is sent under that agent's name and in an epoch of its own. What
// that agent has sent, or sends, itself is recognised by the events' ids, and counts once.
type inheritance struct {
	agent    *Agent
	dir      string
	identity identity
	persons  *persons
	journals []*journal.Journal
	log      *slog.Logger
	backlog  atomic.Uint64
}

// inheritanceLook is how often it is looked whether all of it is acknowledged.
const inheritanceLook = 250 * time.Millisecond

// openInherited opens what is there. What cannot be opened stays where it is, and is told.
func (a *Agent) openInherited() {
	names, err := os.ReadDir(filepath.Join(a.config.DataDir, inheritedDir))
	if err != nil {
		return // there is nothing, as nearly always
	}
	for _, n := range names {
		h := &inheritance{agent: a, dir: filepath.Join(a.config.DataDir, inheritedDir, n.Name()), log: a.log}
		if err := h.open(); err != nil {
			h.close()
			a.log.Error("what an agent left behind that this folder was copied from cannot be sent; it is kept", "dir", h.dir, "reason", err)
			continue
		}
		a.inherited = append(a.inherited, h)
	}
}

func (h *inheritance) open() (err error) {
	var found bool
	if h.identity, found, err = loadIdentity(h.dir, h.log); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("agent: %s does not say whose it is", h.dir)
	}
	if h.persons, err = loadPersons(h.dir, h.agent.deps.Random, h.log); err != nil {
		return err
	}
	parted := exists(filepath.Join(h.dir, partedFile))
	for name, lane := range map[string]usagev1.Lane{usageDir: usagev1.Lane_LANE_USAGE, choiceDir: usagev1.Lane_LANE_CHOICE} {
		dir := filepath.Join(h.dir, name)
		if !exists(dir) {
			continue
		}
		j, err := journal.Open(journal.Config{
			Dir: dir, Lane: lane, AgentID: h.identity.AgentID, MachineID: h.identity.MachineID,
			MaxBytes: h.agent.config.JournalBytes, Random: h.agent.deps.Random, Sync: h.agent.deps.Sync, Log: h.log,
		})
		if err != nil {
			return err
		}
		h.journals = append(h.journals, j)
		if parted || j.Backlog() == 0 {
			continue
		}
		if err := j.NewEpoch(); err != nil {
			return err
		}
	}
	h.waiting()
	if parted {
		return nil
	}
	return durable.Replace(filepath.Join(h.dir, partedFile), nil)
}

func (h *inheritance) close() {
	for _, j := range h.journals {
		if err := j.Close(); err != nil {
			h.log.Error("an inherited journal could not be closed", "dir", h.dir, "reason", err)
		}
	}
	h.journals = nil
}

// waiting is how many records and names are not acknowledged yet.
func (h *inheritance) waiting() (n uint64) {
	for _, j := range h.journals {
		n += j.Backlog() + uint64(j.Stats().Labels)
	}
	h.backlog.Store(n)
	return n
}

// run sends until all is acknowledged, and then removes it.
func (h *inheritance) run(ctx context.Context) {
	defer h.close()
	if h.waiting() > 0 {
		if err := h.send(ctx); err != nil {
			h.log.Error("what an agent left behind that this folder was copied from is not sent; it is kept", "dir", h.dir, "reason", err)
			return
		}
	}
	if h.waiting() > 0 {
		return // ctx has ended: the next start goes on
	}
	h.close()
	if err := os.RemoveAll(h.dir); err != nil {
		h.log.Warn("what was inherited is sent and cannot be removed", "dir", h.dir, "reason", err)
		return
	}
	h.log.Info("all is sent that was inherited with the folder", "agent_id", h.identity.AgentID)
}

func (h *inheritance) send(ctx context.Context) error {
	a := h.agent
	deps := uplink.Deps{
		Hello: func() *agentv1.Hello {
			hello := a.hello()
			hello.AgentId, hello.MachineId, hello.Bequest, hello.Release = h.identity.AgentID[:], h.identity.MachineID[:], true, nil
			hello.PluginReleases = nil
			return hello
		},
		Health: func() *agentv1.Health {
			return &agentv1.Health{UnacknowledgedRecords: h.backlog.Load(), UtcMillis: a.health().GetUtcMillis()}
		},
		Policy: func(context.Context, *policyv1.Policy) error { return nil },
		// The certificate that came with the folder is the right to what else did.
		Identity: a.proof(h.dir, h.identity.AgentID, ""),
		Dial:     a.deps.Dial, Log: h.log.With("inherited_from", h.identity.AgentID),
	}
	for _, j := range h.journals {
		deps.Journals = append(deps.Journals, j)
		if j.Lane() == usagev1.Lane_LANE_USAGE {
			deps.Labels = j
		}
	}
	config := a.config.Uplink
	config.Managers = a.uplink.Addresses()
	up, err := uplink.New(config, deps)
	if err != nil {
		return err
	}
	up.SetPersons(h.persons.messages())
	sending, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = up.Run(sending) // it ends with its context only
	}()
	look := time.NewTicker(inheritanceLook)
	defer look.Stop()
	for h.waiting() > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-look.C:
		}
	}
	stop()
	<-done
	return nil
}

// inheritedBacklog is how many records wait that were inherited.
func (a *Agent) inheritedBacklog() (n uint64) {
	for _, h := range a.inherited {
		n += h.backlog.Load()
	}
	return n
}
