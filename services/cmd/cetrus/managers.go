package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// managersFile holds who may connect to the embedded NATS server by a password: the parts of the
// platform, each with rights of its own (natsserver.Roles), the Manager in this process, and those
// that an operator has added here. Others enrol, and are known by identity's events.
const managersFile = "nats-users.json"

// managerBook is that file, read.
type managerBook struct {
	path    string
	account contract.ID
	file    managersText
}

type managersText struct {
	// Parts are passwords by the names of parts.
	Parts map[string]string `json:"parts"`
	// Cluster is the password by which servers of one cluster know one another.
	Cluster  string          `json:"cluster"`
	Managers []managerAccess `json:"managers"`
}

type managerAccess struct {
	ManagerID string `json:"manager_id"`
	Password  string `json:"password"`
}

// openManagers reads the file that was given, or the one in the data directory, which it makes.
func (s *settings) openManagers(account contract.ID) (*managerBook, error) {
	if s.credentialsDir == "" {
		return openManagers(s.dataDir, account)
	}
	b := &managerBook{path: filepath.Join(s.credentialsDir, managersFile), account: account}
	text, err := os.ReadFile(b.path)
	if err != nil {
		return nil, missingCredential(b.path, err)
	}
	if err := b.refuseOpen(); err != nil {
		return nil, err
	}
	if err := b.read(text); err != nil {
		return nil, err
	}
	if !b.complete() {
		return nil, errs.New(errs.Precondition, "cetrus", b.path, "names not all parts of the platform: `cetrus secrets` adds them")
	}
	return b, nil
}

// openManagers reads the file, or makes it.
func openManagers(dir string, account contract.ID) (*managerBook, error) {
	unlock, err := lockFile(filepath.Join(dir, "lock.managers"), lockWait)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return openLocked(dir, account)
}

// openLocked is openManagers for who holds the lock of the file. A part that the file does not
// know, since an earlier release wrote it, gets its password now.
func openLocked(dir string, account contract.ID) (*managerBook, error) {
	b := &managerBook{path: filepath.Join(dir, managersFile), account: account}
	text, err := os.ReadFile(b.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, errs.As(errs.Precondition, "cetrus", b.path, "cannot be read", err)
	default:
		if err := errors.Join(b.refuseOpen(), b.read(text)); err != nil {
			return nil, err
		}
	}
	if b.complete() {
		return b, nil
	}
	if b.file.Parts == nil {
		b.file.Parts = make(map[string]string)
	}
	if b.file.Cluster == "" {
		b.file.Cluster = natsserver.NewPassword()
	}
	for _, name := range natsserver.Roles() {
		if b.file.Parts[name] == "" {
			b.file.Parts[name] = natsserver.NewPassword()
		}
	}
	return b, b.save()
}

// refuseOpen is an error where others may read the file; its group may, as that of a mounted Secret.
func (b *managerBook) refuseOpen() error {
	info, err := os.Stat(b.path)
	if err != nil {
		return errs.As(errs.Precondition, "cetrus", b.path, "cannot be read", err)
	}
	if info.Mode().Perm()&0o027 != 0 {
		return errs.New(errs.Precondition, "cetrus", b.path, fmt.Sprintf("others may read or change it (%04o), and so speak to the event log as any part; run: chmod 600 %s", info.Mode().Perm(), b.path))
	}
	return nil
}

// complete tells whether every part has a password.
func (b *managerBook) complete() bool {
	return b.file.Cluster != "" && !slices.ContainsFunc(natsserver.Roles(), func(name string) bool { return b.file.Parts[name] == "" })
}

func (b *managerBook) read(text []byte) error {
	var file managersText
	bad := func(err error) error {
		return errs.As(errs.Precondition, "cetrus", b.path, "is damaged: restore it, or remove it to give every part and every Manager a new password", err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return bad(err)
	}
	for _, m := range file.Managers {
		if _, err := contract.ParseID(m.ManagerID); err != nil || m.Password == "" {
			return bad(fmt.Errorf("manager %q: needs a UUID and a password", m.ManagerID))
		}
	}
	b.file = file
	return nil
}

func (b *managerBook) save() error {
	text, err := json.MarshalIndent(b.file, "", "  ")
	if err != nil {
		return errs.Wrap("cetrus", b.path, err)
	}
	return errs.Wrap("cetrus", b.path, durable.Replace(b.path, append(text, '\n')))
}

// add lets a Manager connect; its password stays the same when it is added again.
func (b *managerBook) add(id contract.ID) (natsserver.User, error) {
	for _, m := range b.file.Managers {
		if m.ManagerID == id.String() {
			return natsserver.ManagerUser(b.account, id, m.Password), nil
		}
	}
	m := managerAccess{ManagerID: id.String(), Password: natsserver.NewPassword()}
	b.file.Managers = append(b.file.Managers, m)
	return natsserver.ManagerUser(b.account, id, m.Password), b.save()
}

func (b *managerBook) part(name string) natsserver.User {
	return natsserver.RoleUser(name, b.file.Parts[name])
}

// users are all who may connect by the file.
func (b *managerBook) users() []natsserver.User {
	var all []natsserver.User
	for _, name := range natsserver.Roles() {
		all = append(all, b.part(name))
	}
	for _, m := range b.file.Managers {
		if id, err := contract.ParseID(m.ManagerID); err == nil { // read has checked it
			all = append(all, natsserver.ManagerUser(b.account, id, m.Password))
		}
	}
	return all
}

// watchManagers gives the server its users anew when the file is not what it was
// last, so that a Manager can be added while it runs. It ends with ctx.
func (p *process) watchManagers(ctx context.Context, server *natsserver.Server, path string, last []natsserver.User) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text, err := os.ReadFile(path)
		if err != nil {
			continue // being replaced, or gone: those who may connect stay
		}
		fresh := managerBook{path: path, account: p.keys.Account()}
		err = fresh.read(text)
		if err == nil && !fresh.complete() {
			err = errs.New(errs.Precondition, "cetrus", path, "names not all parts of the platform: restore it, or start the platform anew")
		}
		if err != nil {
			p.log.ErrorContext(ctx, "users of NATS are not changed", "error", err)
			continue
		}
		users := fresh.users()
		if slices.EqualFunc(users, last, func(a, b natsserver.User) bool { return a.Name == b.Name && a.Password == b.Password }) {
			continue
		}
		if err := server.SetUsers(append(users, p.platform)...); err != nil {
			p.log.ErrorContext(ctx, "users of NATS are not changed", "error", err)
			continue
		}
		last = users
		p.log.InfoContext(ctx, "users of NATS changed", "managers", len(fresh.file.Managers))
	}
}

// followManagers lets in the Managers that identity's events tell of. It ends with ctx.
func (p *process) followManagers(ctx context.Context, server *natsserver.Server) {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		err := func() error {
			nc, err := server.Connect(p.platform, nats.Name("managers"))
			if err != nil {
				return err
			}
			defer nc.Close()
			return identity.FollowManagers(ctx, nc, func(list []identity.AdmittedManager) error {
				users := make([]natsserver.User, len(list))
				for i, m := range list {
					users[i] = natsserver.EnrolledManager(m.Account, m.Manager, m.PublicKey)
				}
				p.log.InfoContext(ctx, "enrolled Managers changed", "managers", len(users))
				return server.SetManagers(users...)
			}, func(subject string, err error) {
				p.log.ErrorContext(ctx, "an event of a Manager cannot be understood; as it may have revoked the Manager, that one is let in no more: was the platform put back to an earlier release?", "subject", subject, "error", err)
			})
		}()
		if ctx.Err() != nil {
			return
		}
		p.log.ErrorContext(ctx, "who may connect is not followed for a moment; those who may go on", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// addManager adds a Manager to the file as it is now, and tells all who may connect by it.
func addManager(dir string, account, manager contract.ID) (user natsserver.User, all []natsserver.User, err error) {
	unlock, err := lockFile(filepath.Join(dir, "lock.managers"), lockWait)
	if err != nil {
		return user, nil, err
	}
	defer unlock()
	book, err := openLocked(dir, account)
	if err != nil {
		return user, nil, err
	}
	user, err = book.add(manager)
	return user, book.users(), err
}

// managerCommand lets Managers on other machines, or other processes, connect.
func managerCommand(stdout io.Writer) *cobra.Command {
	var s settings
	var id string
	add := &cobra.Command{
		Use:   "add",
		Short: "Let a Manager connect to the platform of a data directory, and print its NATS URL's user and password",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			manager, err := contract.ParseID(id)
			if err != nil {
				return config.Problem("manager-id", id, "must be the Manager's UUID")
			}
			keys, err := loadAccount(s.dataDir)
			if err != nil {
				return err
			}
			user, _, err := addManager(s.dataDir, keys.Account(), manager)
			if err != nil {
				return err
			}
			return json.NewEncoder(stdout).Encode(map[string]string{
				"account_id": keys.Account().String(), "manager_id": manager.String(), "user": user.Name, "password": user.Password,
			})
		},
	}
	s.flags(add.Flags())
	add.Flags().StringVar(&id, "manager-id", "", "the Manager's UUID")
	return group("manager", "Manage who may forward to this platform", add)
}
