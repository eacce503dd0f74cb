package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// archiveTarget runs the archiver alone, and has its orders.
const archiveTarget = "archive"

// archiveSettings say where AGENT is archived, and when.
type archiveSettings struct {
	url, keyFile     string
	segmentMegabytes int64
	segmentAge, keep time.Duration
	beginAnew        bool
	// backups is the store of backups, which is watched where backupsWithin says how old the latest may be.
	backups       string
	backupsWithin time.Duration
}

func (s *archiveSettings) flags(fs *pflag.FlagSet) {
	fs.StringVar(&s.url, "archive-url", "", "where what agents sent is archived: s3://bucket/prefix?endpoint=https://HOST&region=REGION, with keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a file of them, or file:///folder; without it the log keeps it all")
	fs.StringVar(&s.keyFile, "archive-key-file", "", "file of the key that seals archive and backups; default: "+archive.KeyFile+" in the data directory")
	fs.Int64Var(&s.segmentMegabytes, "archive-segment-megabytes", 32, "how much of the log a segment of the archive holds, 1 to 256")
	fs.DurationVar(&s.segmentAge, "archive-segment-age", time.Hour, "after what time a segment is archived that is not full")
	fs.DurationVar(&s.keep, "archive-keep", 7*24*time.Hour, "how long the log keeps what is archived; 0 for ever")
	fs.BoolVar(&s.beginAnew, "archive-begin-anew", false, "have an empty archive begin where the log does, though that has lost what came before: only where no other archive holds it")
	fs.StringVar(&s.backups, "backups-url", "", "store of backups, as archive-url, with keys from BACKUPS_AWS_ACCESS_KEY_ID and BACKUPS_AWS_SECRET_ACCESS_KEY where they differ; each backup has a folder of its own there. Where it is given, the part that archives looks how old the latest is")
	fs.DurationVar(&s.backupsWithin, "backups-within", 36*time.Hour, "how old the latest backup may become before that is told")
}

func (s *archiveSettings) validate() error {
	if s.url != "" {
		if _, err := archive.OpenStore(s.url); err != nil {
			return config.Problem("archive-url", "", errs.PublicOf(err).Message)
		}
	}
	if s.backups != "" {
		if _, err := archive.OpenBackups(s.backups); err != nil {
			return config.Problem("backups-url", "", errs.PublicOf(err).Message)
		}
	}
	if s.backupsWithin <= 0 {
		return config.Problem("backups-within", s.backupsWithin.String(), "must be longer than nothing, as 36h")
	}
	if s.segmentMegabytes < 1 || s.segmentMegabytes > 256 {
		return config.Problem("archive-segment-megabytes", fmt.Sprint(s.segmentMegabytes), "must be 1 to 256")
	}
	if s.segmentAge <= 0 {
		return config.Problem("archive-segment-age", s.segmentAge.String(), "must be longer than nothing, as 1h")
	}
	if s.keep < 0 {
		return config.Problem("archive-keep", s.keep.String(), "must not be shorter than nothing; 0 keeps all")
	}
	return nil
}

func (s *settings) archiveKeyFile() string {
	if s.archive.keyFile != "" {
		return s.archive.keyFile
	}
	return filepath.Join(s.credentials(), archive.KeyFile)
}

// openArchive opens the archive, and makes its key where there is none; nil where none is set.
func (p *process) openArchive() (archive.Store, *archive.Keys, error) {
	if p.settings.archive.url == "" {
		return nil, nil, nil
	}
	store, err := archive.OpenStore(p.settings.archive.url)
	if err != nil {
		return nil, nil, err
	}
	keys, made, err := p.settings.archiveKeys()
	if err != nil {
		return nil, nil, err
	}
	if made {
		p.log.Warn("a key for archive and backups was made: keep a copy of it elsewhere; without it neither can be read", "file", p.settings.archiveKeyFile())
	}
	return store, keys, nil
}

// archiveKeys reads the key of the archive, or makes it where secrets are made; made tells which.
func (s *settings) archiveKeys() (keys *archive.Keys, made bool, err error) {
	path := s.archiveKeyFile()
	if s.credentialsDir == "" {
		return archive.EnsureKeys(path)
	}
	keys, err = archive.LoadKeys(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = missingCredential(path, err)
	}
	return keys, false, err
}

// archivePart archives AGENT and takes what is archived out of it, where the settings say so, and watches backups.
var archivePart = part{
	name: "archive",
	start: func(ctx context.Context, p *process) (runner, error) {
		watches, err := p.startBackupWatch()
		if err != nil {
			return nil, err
		}
		archives, err := p.startArchiver(ctx)
		switch {
		case err != nil:
			return nil, err
		case watches == nil && archives == nil && p.target.name == archiveTarget:
			return nil, config.Problem("archive-url", "", "this target needs it, or backups-url: s3://bucket/prefix or file:///folder")
		case watches == nil:
			return archives, nil
		case archives == nil:
			return watches, nil
		}
		return func(ctx context.Context) error {
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error { return archives(ctx) })
			group.Go(func() error { return watches(ctx) })
			return group.Wait()
		}, nil
	},
}

// startBackupWatch is nil where no store of backups is set.
func (p *process) startBackupWatch() (runner, error) {
	set := p.settings.archive
	if set.backups == "" {
		return nil, nil
	}
	store, err := archive.OpenBackups(set.backups)
	if err != nil {
		return nil, err
	}
	watch, err := archive.NewBackupWatch(store, set.backupsWithin, p.log)
	if err != nil {
		return nil, err
	}
	return watch.Run, nil
}

// startArchiver is nil where no archive is set.
func (p *process) startArchiver(ctx context.Context) (runner, error) {
	store, keys, err := p.openArchive()
	if err != nil || store == nil {
		return nil, err
	}
	nc, err := p.connect(ctx, natsserver.Archive, "archive")
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, errs.Wrap("cetrus", "", err)
	}
	set := p.settings.archive
	archiver, err := archive.NewArchiver(
		archive.ArchiverConfig{Stream: contract.AgentStream, SegmentBytes: set.segmentMegabytes << 20, SegmentAge: set.segmentAge, Keep: set.keep, BeginAnew: set.beginAnew},
		archive.Deps{JetStream: js, Store: store, Keys: keys, Logger: p.log},
	)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return func(ctx context.Context) error {
		defer nc.Close()
		return archiver.Run(ctx)
	}, nil
}

// forkCommand has the archive go on where the log was put back.
func forkCommand(stdout io.Writer) *cobra.Command {
	var s settings
	fork := &cobra.Command{
		Use:   "fork",
		Short: "Have the archive go on behind what the log holds, where the log was put back and the archive holds more; what it holds beyond that is kept, and read no more",
		Args:  cobra.NoArgs,
		RunE:  s.asOperator(func(ctx context.Context, nc *nats.Conn) error { return s.forkArchive(ctx, stdout, nc) }),
	}
	s.flags(fork.Flags())
	return fork
}

func (s *settings) forkArchive(ctx context.Context, stdout io.Writer, nc *nats.Conn) error {
	store, keys, err := s.archiveToRead()
	if err != nil {
		return err
	}
	stream, err := agentStream(ctx, nc)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	of := archive.New(store, keys, contract.AgentStream, info.Created)
	_, last, err := of.Range(ctx)
	if err != nil {
		return err
	}
	if last <= info.State.LastSeq {
		return errs.New(errs.Precondition, "cetrus", "the archive", fmt.Sprintf("ends at %d, the log at %d: nothing is in the way of its going on", last, info.State.LastSeq))
	}
	branch, err := of.Fork(ctx, info.State.LastSeq, time.Now())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "The archive goes on behind %d, as branch %d; what it held up to %d stays in %s.\n", info.State.LastSeq, branch, last, store.Where())
	return err
}

// archiveToRead opens the archive of the settings with a key that must be there.
func (s *settings) archiveToRead() (archive.Store, *archive.Keys, error) {
	if s.archive.url == "" {
		return nil, nil, config.Problem("archive-url", "", "name the archive, as s3://bucket/prefix or file:///folder")
	}
	store, err := archive.OpenStore(s.archive.url)
	if err != nil {
		return nil, nil, err
	}
	keys, err := s.keysToRead()
	return store, keys, err
}

// keysToRead reads the key of an archive or a backup that was made before, and so cannot be made.
func (s *settings) keysToRead() (*archive.Keys, error) {
	path := s.archiveKeyFile()
	keys, err := archive.LoadKeys(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.Precondition, "cetrus", path, "is not there: put the key there that was kept elsewhere, or name its file with --archive-key-file or "+config.EnvName("archive-key-file")+"; without it neither archive nor backups can be read")
	}
	return keys, err
}

// agentStream is the stream of what agents sent.
func agentStream(ctx context.Context, nc *nats.Conn) (jetstream.Stream, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, errs.Wrap("cetrus", "", err)
	}
	stream, err := js.Stream(ctx, contract.AgentStream)
	if err != nil {
		return nil, errs.As(errs.Unavailable, "cetrus", contract.AgentStream, "cannot be asked for", err)
	}
	return stream, nil
}
