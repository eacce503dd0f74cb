package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

const (
	restoreTarget = "restore"
	// restoringFile stands in a data directory until all of a backup was put back.
	restoringFile = "restore-unfinished"
)

// backedUp is what a backup says of itself.
type backedUp struct {
	// Release that has made it.
	Release string `json:"release"`
	Account string `json:"account"`
	// Archive is where AGENT is archived; empty where it is not.
	Archive string                       `json:"archive,omitempty"`
	Streams map[string]natsserver.Copied `json:"streams"`
	Tables  map[string]postgres.Copied   `json:"tables"`
	// KeyFiles are the files of the data directory that are in it.
	KeyFiles []string `json:"key_files"`
}

// backedUpStreams are in the order in which they are copied. What agents sent may speak of what
// was decided, and both of keys: so keys are copied last, and none is missing.
func backedUpStreams() []string {
	return []string{contract.AgentStream, contract.EventStream, contract.PolicyStream, contract.PoisonStream}
}

// restoredStreams are in the order in which they are put back, which the NATS server wants: nothing
// comes behind EVENTS.
func restoredStreams() []string {
	return []string{contract.AgentStream, contract.PolicyStream, contract.PoisonStream, contract.EventStream}
}

// backedUpTables are what only the database has.
func backedUpTables() []postgres.Config {
	return []postgres.Config{keyring.StoreConfig(), identity.SecretsConfig(), metering.SecretsConfig()}
}

func backupCommand(stdout io.Writer) *cobra.Command {
	var s settings
	var to string
	var withoutKeys bool
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Back up a platform that runs: the log, and what only the database and the data directory have; sealed under the key of the file " + archive.KeyFile,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			return s.logged(cmd.Context(), "backup", func(log *slog.Logger) error { return s.backUp(cmd.Context(), stdout, log, to, withoutKeys) })
		},
	}
	s.flags(cmd.Flags())
	cmd.Flags().StringVar(&to, "to", "", "store of backups: s3://bucket/prefix?endpoint=https://HOST&region=REGION or file:///folder; each backup has a folder of its own there; default: backups-url")
	cmd.Flags().BoolVar(&withoutKeys, "without-key-files", false, "leave out the files name-key and sign-in-key, which then have to be kept otherwise")
	return cmd
}

func openBackups(flag, url string) (archive.Store, error) {
	if url == "" {
		return nil, config.Problem(flag, "", "name the store of backups, as s3://bucket/prefix or file:///folder")
	}
	return archive.OpenBackups(url)
}

func (s *settings) backUp(ctx context.Context, stdout io.Writer, log *slog.Logger, to string, withoutKeys bool) error {
	store, err := openBackups("to", cmp.Or(to, s.archive.backups))
	if err != nil {
		return err
	}
	account, err := loadAccount(s.credentials())
	if err != nil {
		return err
	}
	nc, err := s.connectToRunning(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	database, err := s.reachedDatabase(ctx, log)
	if err != nil {
		return err
	}
	keys, made, err := s.archiveKeys()
	if err != nil {
		return err
	}
	if made {
		_, _ = fmt.Fprintf(stdout, "A key for backups was made, %s: keep a copy of it elsewhere. Without it no backup can be read.\n", s.archiveKeyFile())
	}
	about := backedUp{
		Release: release(), Account: account.Account().String(), Archive: s.archive.url,
		Streams: make(map[string]natsserver.Copied), Tables: make(map[string]postgres.Copied),
	}
	backup := archive.NewBackup(store, keys, time.Now())
	// The log takes long, and would be copied in vain.
	stores, closeAll, err := openTables(ctx, database, log)
	if err != nil {
		return err
	}
	defer closeAll()
	if err := backup.Begin(ctx); err != nil {
		return err
	}
	if err := backUpStreams(ctx, stdout, nc, backup, &about); err != nil {
		return err
	}
	if err := backUpTables(ctx, stdout, stores, backup, &about); err != nil {
		return err
	}
	// Keys of names may be wrapped anew while they are copied: the file has the former key, too, for an hour.
	if err := s.backUpFiles(ctx, backup, withoutKeys, &about); err != nil {
		return err
	}
	if err := backup.Finish(ctx, about); err != nil {
		return err
	}
	agent := about.Streams[contract.AgentStream].State
	_, err = fmt.Fprintf(stdout, "Backup %s is complete: AGENT up to %d, EVENTS up to %d.\n", backup.Name(), agent.LastSeq, about.Streams[contract.EventStream].State.LastSeq)
	for _, name := range []string{nameKeyFile, signInKeyFile} {
		if !slices.Contains(about.KeyFiles, name) {
			_, _ = fmt.Fprintf(stdout, "The file %s is not in it: keep it otherwise. Without it names, or second factors, cannot be read.\n", name)
		}
	}
	return err
}

// telling tells now and then how many bytes have gone.
func telling(stdout io.Writer, what string, of uint64) func(int) {
	var bytes uint64
	due := nowAndThen()
	return func(n int) {
		bytes += uint64(n)
		if due() {
			_, _ = fmt.Fprintf(stdout, "%s: %d of about %d bytes\n", what, bytes, of)
		}
	}
}

// nowAndThen tells when progress is due to be told, the first time after progressEvery.
func nowAndThen() func() bool {
	told := time.Now()
	return func() bool {
		if time.Since(told) < progressEvery {
			return false
		}
		told = time.Now()
		return true
	}
}

func backUpStreams(ctx context.Context, stdout io.Writer, nc *nats.Conn, backup *archive.Backup, about *backedUp) error {
	for _, name := range backedUpStreams() {
		var copied natsserver.Copied
		err := backup.Add(ctx, "stream/"+name, func(w io.Writer) (err error) {
			var tell func(int)
			copied, err = natsserver.CopyStream(ctx, nc, name,
				func(of natsserver.Copied) { tell = telling(stdout, name, of.State.Bytes) },
				func(piece []byte) error {
					tell(len(piece))
					_, err := w.Write(piece)
					return err
				})
			return err
		})
		if err != nil {
			return err
		}
		about.Streams[name] = copied
		_, _ = fmt.Fprintf(stdout, "%s: %d messages up to %d\n", name, copied.State.Msgs, copied.State.LastSeq)
	}
	return nil
}

// openTables opens what only the database has, by the names of services.
func openTables(ctx context.Context, database string, log *slog.Logger) (stores map[string]*postgres.Store, closeAll func(), err error) {
	stores = make(map[string]*postgres.Store)
	closeAll = func() {
		for _, store := range stores {
			store.Close()
		}
	}
	for _, cfg := range backedUpTables() {
		cfg.URL, cfg.Logger = database, log
		if stores[cfg.Service], err = postgres.Open(ctx, cfg); err != nil {
			delete(stores, cfg.Service)
			closeAll()
			return nil, nil, err
		}
	}
	return stores, closeAll, nil
}

func backUpTables(ctx context.Context, stdout io.Writer, stores map[string]*postgres.Store, backup *archive.Backup, about *backedUp) error {
	for _, cfg := range backedUpTables() {
		service := cfg.Service
		copied, err := stores[service].CopyOut(ctx, func(t postgres.Table, write func(io.Writer) error) error {
			return backup.Add(ctx, tableFile(service, t.Name), write)
		})
		if err != nil {
			return err
		}
		about.Tables[service] = copied
		_, _ = fmt.Fprintf(stdout, "database: %s, %s\n", service, count(len(copied.Tables), "table"))
	}
	return nil
}

func tableFile(service, table string) string { return "table/" + service + "/" + table }

// keyFiles are the files of secrets by their name in a backup.
func (s *settings) keyFiles() map[string]string {
	dir := s.credentials()
	return map[string]string{
		authn.AccountFile: filepath.Join(dir, authn.AccountFile), managersFile: filepath.Join(dir, managersFile),
		nameKeyFile:   cmp.Or(s.nameKey.file, filepath.Join(dir, nameKeyFile)),
		signInKeyFile: cmp.Or(s.signInKeyFile, filepath.Join(dir, signInKeyFile)),
	}
}

func (s *settings) backUpFiles(ctx context.Context, backup *archive.Backup, withoutKeys bool, about *backedUp) error {
	for name, path := range s.keyFiles() {
		if withoutKeys && name != authn.AccountFile && name != managersFile {
			continue
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // of a part that runs elsewhere
		}
		if err == nil {
			err = backup.Add(ctx, "file/"+name, func(w io.Writer) error {
				_, err := w.Write(content)
				return err
			})
		}
		if err != nil {
			return errs.As(errs.Precondition, "cetrus", path, "cannot be backed up", err)
		}
		about.KeyFiles = append(about.KeyFiles, name)
	}
	slices.Sort(about.KeyFiles)
	return nil
}

func restoreCommand(stdout io.Writer) *cobra.Command {
	var s settings
	var from, name, keyFilesTo string
	cmd := &cobra.Command{
		Use:   restoreTarget,
		Short: "Put a backup back into an empty data directory, or into empty servers that the settings name; then start Cetrus on it, which builds its tables anew",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			return s.restore(cmd.Context(), stdout, from, name, keyFilesTo)
		},
	}
	s.flags(cmd.Flags())
	cmd.Flags().StringVar(&from, "from", "", "store of backups, as in backup --to; default: backups-url")
	cmd.Flags().StringVar(&name, "backup", "", "name of the backup; default: the latest")
	cmd.Flags().StringVar(&keyFilesTo, "key-files-to", "", "write the files of secrets that the backup holds into this directory, and do nothing else")
	return cmd
}

// restoration is one that is under way.
type restoration struct {
	settings *settings
	out      io.Writer
	kept     *archive.Kept
	keys     *archive.Keys
	about    backedUp
	// store has the archive, and was is that of the stream that was backed up; nil where there is none.
	store archive.Store
	was   *archive.Archive
}

func (s *settings) restore(ctx context.Context, stdout io.Writer, from, name, keyFilesTo string) error {
	// Managers that come before all is put back would write into the empty log.
	s.natsListen, s.nats.websocketListen = "127.0.0.1:0", ""
	into := target{name: restoreTarget, parts: []part{natsPart, postgresPart}}
	if err := s.validateFor(into); err != nil {
		return err
	}
	store, err := openBackups("from", cmp.Or(from, s.archive.backups))
	if err != nil {
		return err
	}
	keys, err := s.keysToRead()
	if err != nil {
		return err
	}
	r := &restoration{settings: s, out: stdout, keys: keys}
	if r.kept, r.about, err = openKept(ctx, store, keys, name); err != nil {
		return err
	}
	if keyFilesTo != "" {
		return r.writeKeyFiles(ctx, keyFilesTo)
	}
	if agent := r.about.Streams[contract.AgentStream]; agent.State.FirstSeq > 1 && s.archive.url == "" {
		return config.Problem("archive-url", "", fmt.Sprintf("what agents sent before %d is in the archive only: name it; it was %s", agent.State.FirstSeq, r.about.Archive))
	}
	if err := r.findArchive(ctx); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(stdout, "Backup %s, made by release %s\n", r.kept.Name, r.about.Release)
	if err := r.files(ctx); err != nil {
		return err
	}
	return s.logged(ctx, restoreTarget, func(log *slog.Logger) error { return r.run(ctx, log, into) })
}

// run starts the servers, those of them that are this process's own, and has them take what was backed up.
func (r *restoration) run(ctx context.Context, log *slog.Logger, into target) error {
	p, err := newProcess(*r.settings, into, log, r.out)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var working sync.WaitGroup
	var worked error
	err = p.run(ctx, func() {
		working.Go(func() {
			defer cancel()
			worked = r.servers(ctx, p)
		})
	})
	cancel() // where a part has failed meanwhile
	working.Wait()
	if err := errors.Join(worked, err); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(p.settings.dataDir, restoringFile)); err != nil {
		return errs.As(errs.Precondition, "cetrus", restoringFile, "cannot be removed", err)
	}
	_, err = fmt.Fprintf(r.out, "Backup %s is put back: AGENT up to %d. Start Cetrus on it: tables are built anew, and its log tells how far they are.\n", r.kept.Name, r.about.Streams[contract.AgentStream].State.LastSeq)
	return err
}

// openKept opens a backup of a store by its name, or the latest.
func openKept(ctx context.Context, store archive.Store, keys *archive.Keys, name string) (*archive.Kept, backedUp, error) {
	var about backedUp
	names, err := archive.Backups(ctx, store)
	if err != nil {
		return nil, about, err
	}
	if len(names) == 0 {
		return nil, about, errs.New(errs.NotFound, "cetrus", store.Where(), "holds no backup that was finished")
	}
	latest := names[len(names)-1]
	if name != "" && !slices.Contains(names, name) {
		return nil, about, errs.New(errs.NotFound, "cetrus", "backup "+name, "is not in "+store.Where()+", or was not finished; the latest there is "+latest)
	}
	kept, err := archive.OpenBackup(ctx, store, keys, cmp.Or(name, latest))
	if err != nil {
		return nil, about, err
	}
	if err := json.Unmarshal(kept.About, &about); err != nil {
		return nil, about, errs.As(errs.Precondition, "cetrus", "backup "+kept.Name, "says nothing of itself that this release understands", err)
	}
	return kept, about, nil
}

// files puts the files of secrets back into the data directory, which must have none of them. Where
// secrets are given in a directory of their own, they must be those of the backup.
func (r *restoration) files(ctx context.Context) error {
	dir, files := r.settings.dataDir, r.settings.keyFiles()
	taken := []string{filepath.Join(dir, "nats"), filepath.Join(dir, "postgres")}
	if r.settings.credentialsDir == "" {
		taken = append(taken, files[authn.AccountFile], files[managersFile])
	}
	for _, path := range taken {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return errs.New(errs.Precondition, "cetrus", path, "is there already: restore into an empty data directory")
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return errs.As(errs.Precondition, "cetrus", "data directory "+dir, "cannot be made", err)
	}
	if err := durable.Create(filepath.Join(dir, restoringFile), []byte(r.kept.Name+"\n")); err != nil {
		return errs.As(errs.Precondition, "cetrus", "data directory "+dir, "cannot be restored into", err)
	}
	return r.eachKeyFile(ctx, func(name string, content []byte) error {
		path := files[name]
		there, err := os.ReadFile(path)
		switch {
		case err == nil && bytes.Equal(there, content):
			return nil
		case r.settings.credentialsDir != "" && name != managersFile:
			return errs.New(errs.Precondition, "cetrus", path, "is not the file of the backup: have those written by restore --key-files-to DIR, and give them to all parts")
		case r.settings.credentialsDir != "":
			return nil // passwords of NATS's users are the new installation's own
		case err == nil:
			return errs.New(errs.Precondition, "cetrus", path, "is there, and is another than that of the backup")
		}
		return errs.As(errs.Precondition, "cetrus", path, "cannot be put back", durable.Create(path, content))
	})
}

func (r *restoration) eachKeyFile(ctx context.Context, take func(name string, content []byte) error) error {
	return eachKeyFile(ctx, r.kept, r.about, take)
}

// eachKeyFile takes the files of secrets of a backup, but those that this release does not know.
func eachKeyFile(ctx context.Context, kept *archive.Kept, about backedUp, take func(name string, content []byte) error) error {
	for _, name := range about.KeyFiles {
		if !slices.Contains([]string{authn.AccountFile, managersFile, nameKeyFile, signInKeyFile}, name) {
			continue
		}
		var content []byte
		err := kept.Each(ctx, "file/"+name, func(piece []byte) error {
			content = append(content, piece...)
			return nil
		})
		if err == nil {
			err = take(name, content)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeKeyFiles writes the files of secrets of a backup into a folder.
func (r *restoration) writeKeyFiles(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return errs.As(errs.Precondition, "cetrus", dir, "cannot be made", err)
	}
	return r.eachKeyFile(ctx, func(name string, content []byte) error {
		_, _ = fmt.Fprintln(r.out, filepath.Join(dir, name))
		return errs.As(errs.Precondition, "cetrus", filepath.Join(dir, name), "cannot be written", durable.Create(filepath.Join(dir, name), content))
	})
}

// servers puts streams and tables back.
func (r *restoration) servers(ctx context.Context, p *process) error {
	database, err := p.database()
	if err != nil {
		return err
	}
	nc, err := p.connect(ctx, natsserver.Operator, restoreTarget)
	if err != nil {
		return err
	}
	defer nc.Close()
	// What others bring up may come later; once something was put back, there is no second attempt.
	if err := errors.Join(awaitStreams(ctx, nc, restoredStreams()), p.awaitTables(ctx, database, backedUpTables()...)); err != nil {
		return err
	}
	for _, cfg := range backedUpTables() {
		cfg.URL, cfg.Logger = database, p.log
		store, err := postgres.Open(ctx, cfg)
		if err != nil {
			return err
		}
		err = store.CopyIn(ctx, r.about.Tables[cfg.Service], func(t postgres.Table, rows io.Writer) error {
			return r.kept.Each(ctx, tableFile(cfg.Service, t.Name), func(piece []byte) error {
				_, err := rows.Write(piece)
				return err
			})
		})
		store.Close()
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(r.out, "database: %s\n", cfg.Service)
	}
	for _, name := range restoredStreams() {
		if err := r.stream(ctx, nc, name); err != nil {
			return err
		}
	}
	return r.archive(ctx, nc)
}

// awaitStreams waits until the servers of the log have made the streams, and have a leader for each.
func awaitStreams(ctx context.Context, nc *nats.Conn, names []string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return errs.Wrap("cetrus", "", err)
	}
	for _, name := range names {
		for {
			asking, cancel := context.WithTimeout(ctx, answerWithin)
			_, err := js.Stream(asking, name)
			cancel()
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return errs.As(errs.Unavailable, "cetrus", "stream "+name, "is not there yet", err)
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

func (r *restoration) stream(ctx context.Context, nc *nats.Conn, name string) error {
	kept := r.about.Streams[name]
	tell := telling(r.out, name, kept.State.Bytes)
	err := natsserver.PutStreamBack(ctx, nc, kept, func(ctx context.Context, give func([]byte) error) error {
		return r.kept.Each(ctx, "stream/"+name, func(piece []byte) error {
			tell(len(piece))
			return give(piece)
		})
	})
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(r.out, "%s: %d messages up to %d\n", name, kept.State.Msgs, kept.State.LastSeq)
	return nil
}

// findArchive looks, before anything is put back, whether the archive holds what agents sent before the backup begins.
func (r *restoration) findArchive(ctx context.Context) (err error) {
	if r.settings.archive.url == "" {
		return nil
	}
	if r.store, err = archive.OpenStore(r.settings.archive.url); err != nil {
		return err
	}
	before := r.about.Streams[contract.AgentStream]
	was := archive.New(r.store, r.keys, contract.AgentStream, before.Created)
	first, last, err := was.Range(ctx)
	if err != nil {
		return err
	}
	if gone := before.State.FirstSeq; gone > 1 && (first != 1 || last < gone-1) {
		return errs.New(errs.Precondition, "cetrus", r.store.Where(), fmt.Sprintf("holds %d to %d of what agents sent, and 1 to %d are needed: is it the archive of the backup?", first, last, gone-1))
	}
	if first > 0 {
		r.was = was
	}
	return nil
}

// archive has the archive of the stream that was backed up go on as that of the one that was put back.
func (r *restoration) archive(ctx context.Context, nc *nats.Conn) error {
	if r.was == nil {
		return nil
	}
	stream, err := agentStream(ctx, nc)
	if err != nil {
		return err
	}
	is := archive.New(r.store, r.keys, contract.AgentStream, stream.CachedInfo().Created)
	return is.GoOnFrom(ctx, r.was, r.about.Streams[contract.AgentStream].State.LastSeq, time.Now())
}
