package metering

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel"
	otelmetric "go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/resource"
)

const (
	// keptFor is how long a file is kept once it is made, or what became of it.
	keptFor = 7 * 24 * time.Hour
	// maxFileBytes bounds one file, maxAccountBytes those of an account, maxFiles how many a login has.
	maxFileBytes    = 1 << 30
	maxAccountBytes = 8 << 30
	maxFiles        = 50
	// keptPartBytes is how large the parts are that a file is kept in.
	keptPartBytes = 256 << 10
	// fileTries is how often the making of a file is begun that does not come to its end.
	fileTries = 5
	// whatFileQuestion and whatFilePart are the fields that a file's question and its parts are sealed as.
	whatFileQuestion, whatFilePart = "report file question", "report file part"
)

// States of a file, as the contract counts them.
const (
	fileWaits     = meteringv1.ReportFile_STATE_WAITING
	fileMaking    = meteringv1.ReportFile_STATE_MAKING
	fileReady     = meteringv1.ReportFile_STATE_READY
	fileFailed    = meteringv1.ReportFile_STATE_FAILED
	fileCancelled = meteringv1.ReportFile_STATE_CANCELLED
)

// keptFile is a file of a report that its owner comes back for.
type keptFile struct {
	account, id, owner contract.ID
	question           []byte // sealed
	format             meteringv1.ExportFormat
	privileges         authn.Privileges
	reach              authzv1.Reach
	state              meteringv1.ReportFile_State
	tries, parts       int32
	rows, bytes        int64
	percent            *int32
	problem            meteringv1.ReportFileProblem
	detail             string
	created, expires   time.Time
	begun, ended       *time.Time
}

const keptColumns = `f.account_id, f.report_file_id, f.owner_login_id, f.question, f.format, f.privileges, f.reach, f.state, f.tries, f.parts,
	f.written_rows, f.written_bytes, f.done_percent, f.problem, f.detail, f.created, f.expires, f.begun, f.ended`

func scanKept(row pgx.CollectableRow) (f keptFile, err error) {
	var privileges int64
	var format, reach, state int16
	var problem int32
	err = row.Scan((*[16]byte)(&f.account), (*[16]byte)(&f.id), (*[16]byte)(&f.owner), &f.question, &format, &privileges, &reach, &state, &f.tries, &f.parts,
		&f.rows, &f.bytes, &f.percent, &problem, &f.detail, &f.created, &f.expires, &f.begun, &f.ended)
	f.format, f.privileges, f.reach = meteringv1.ExportFormat(format), authn.Privileges(privileges), authzv1.Reach(reach)
	f.state, f.problem = meteringv1.ReportFile_State(state), meteringv1.ReportFileProblem(problem)
	return f, err
}

// keptFiles keeps files of reports, sealed under their owners' keys. Nothing of them is in the log: they
// are made of it, and whoever loses one asks again.
type keptFiles struct {
	store *postgres.Store
	keys  Keys
	// wake has it looked whether a file is to be made.
	wake
	ended otelmetric.Int64Counter
}

func newKeptFiles(store *postgres.Store, keys Keys) (*keptFiles, error) {
	ended, err := otel.Meter("github.com/cetrus/cetrus/services/metering").Int64Counter("cetrus.metering.report_files",
		otelmetric.WithDescription("Files of reports that were made in the background, by what became of them"))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return &keptFiles{store: store, keys: keys, wake: newWake(), ended: ended}, nil
}

// key is what the files of a login are sealed under.
func (k *keptFiles) key(ctx context.Context, account, owner contract.ID) (keyring.Key, error) {
	if k.keys == nil {
		return keyring.Key{}, errs.New(errs.Precondition, "metering.ReportFile", "", "a file cannot be kept, since this process has no keyring: start it with one")
	}
	return k.keys.KeyOf(ctx, account, owner)
}

// sealedAs tells one part of one file from any other.
func (f *keptFile) sealedAs(part int32) string {
	return fmt.Sprintf("%s %s %d", whatFilePart, f.id, part)
}

// asked is what a file is of.
func (k *keptFiles) asked(ctx context.Context, f *keptFile) (*meteringv1.ReportQuestion, error) {
	key, err := k.key(ctx, f.account, f.owner)
	if err != nil {
		return nil, err
	}
	text, err := keyring.OpenBytes(key, f.owner, whatFileQuestion, f.question)
	if err != nil {
		return nil, fmt.Errorf("metering: what file %s is of: %w", f.id, err)
	}
	question := &meteringv1.ReportQuestion{}
	if err := proto.Unmarshal(text, question); err != nil {
		return nil, fmt.Errorf("metering: what file %s is of: %w", f.id, err)
	}
	return question, nil
}

// put has a file wait to be made, unless its owner or the account has too many. One that is there stays as it is.
func (k *keptFiles) put(ctx context.Context, op string, f *keptFile, question *meteringv1.ReportQuestion) error {
	key, err := k.key(ctx, f.account, f.owner)
	if err != nil {
		return err
	}
	text, err := proto.Marshal(question)
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	var files int64
	if err := k.store.Projector.QueryRow(ctx, "SELECT count(*) FROM report_file WHERE account_id = $1::uuid AND owner_login_id = $2::uuid AND report_file_id <> $3::uuid", f.account, f.owner, f.id).Scan(&files); err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	bytes, err := writtenBytes(ctx, k.store.Projector, f.account)
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	switch {
	case files >= maxFiles:
		return errs.New(errs.Exhausted, op, "", fmt.Sprintf("a login has at most %d files: remove one that is not needed any more", maxFiles))
	case bytes >= maxAccountBytes:
		return errs.New(errs.Exhausted, op, "", fmt.Sprintf("the files of the account have %d GiB, and it has room for no more: remove some, or have this one without its being kept", maxAccountBytes>>30))
	}
	_, err = k.store.Projector.Exec(ctx, `INSERT INTO report_file (account_id, report_file_id, owner_login_id, question, format, privileges, state, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8) ON CONFLICT (account_id, report_file_id) DO NOTHING`,
		f.account, f.id, f.owner, keyring.SealBytes(key, f.owner, whatFileQuestion, text), int16(f.format), int64(f.privileges), int16(fileWaits), keptFor)
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	k.soon()
	return nil
}

// writtenBytes is how much the files of an account have together.
func writtenBytes(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, account contract.ID,
) (bytes int64, err error) {
	return bytes, q.QueryRow(ctx, "SELECT coalesce(sum(written_bytes), 0)::int8 FROM report_file WHERE account_id = $1::uuid", account).Scan(&bytes)
}

// read reads files of a login; more is a condition with $3 …
func (k *keptFiles) read(ctx context.Context, account, owner contract.ID, more string, args ...any) (found []keptFile, err error) {
	err = k.store.InAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+keptColumns+" FROM report_file AS f WHERE f.account_id = $1::uuid AND f.owner_login_id = $2::uuid AND "+more, append([]any{account, owner}, args...)...)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, scanKept)
		return err
	})
	return found, err
}

// part is one part of a file that is ready.
func (k *keptFiles) part(ctx context.Context, f *keptFile, part int32) ([]byte, error) {
	key, err := k.key(ctx, f.account, f.owner)
	if err != nil {
		return nil, err
	}
	var sealed []byte
	err = k.store.InAccount(ctx, f.account, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT content FROM report_file_part WHERE account_id = $1::uuid AND report_file_id = $2::uuid AND part = $3", f.account, f.id, part).Scan(&sealed)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, errs.New(errs.NotFound, "metering.ReportFile", "", "the file was removed, or emptied, while it was read")
	case err != nil:
		return nil, fmt.Errorf("metering: part %d of file %s: %w", part, f.id, err)
	}
	content, err := keyring.OpenBytes(key, f.owner, f.sealedAs(part), sealed)
	if err != nil {
		return nil, fmt.Errorf("metering: part %d of file %s: %w", part, f.id, err)
	}
	return content, nil
}

// emptied takes from files what they hold, whoever makes them, and gives them a state and a problem; where is a
// condition with $6 …, and $4 the state of those that wait. It tells how many there were.
func (k *keptFiles) emptied(ctx context.Context, state meteringv1.ReportFile_State, problem meteringv1.ReportFileProblem, detail, where string, args ...any) (n int64, err error) {
	err = pgx.BeginFunc(ctx, k.store.Projector, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `UPDATE report_file AS f SET state = $1::int2, problem = $2, detail = $3, claim = NULL, claimed_until = NULL, tries = 0, not_before = now(), written_rows = 0, written_bytes = 0, parts = 0, done_percent = NULL,
			ended = CASE WHEN $1::int2 = $4::int2 THEN NULL ELSE now() END, expires = now() + $5 WHERE `+where+" RETURNING f.account_id, f.report_file_id",
			append([]any{int16(state), int32(problem), text(detail), int16(fileWaits), keptFor}, args...)...)
		if err != nil {
			return err
		}
		var account, id [16]byte
		var accounts, ids [][16]byte
		if _, err := pgx.ForEachRow(rows, []any{&account, &id}, func() error {
			accounts, ids = append(accounts, account), append(ids, id)
			return nil
		}); err != nil {
			return err
		}
		n = int64(len(ids))
		_, err = tx.Exec(ctx, "DELETE FROM report_file_part AS p USING unnest($1::uuid[], $2::uuid[]) AS g (account_id, id) WHERE p.account_id = g.account_id AND p.report_file_id = g.id", accounts, ids)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("metering: %w", err)
	}
	return n, nil
}

// forgetLogin removes the files of a login that is deleted.
func (k *keptFiles) forgetLogin(ctx context.Context, account, login contract.ID) error {
	if _, err := k.store.Projector.Exec(ctx, "DELETE FROM report_file WHERE account_id = $1::uuid AND owner_login_id = $2::uuid", account, login); err != nil {
		return fmt.Errorf("metering: the files of login %s: %w", login, err)
	}
	return nil
}

// forgetPeople empties all files of an account in which somebody is forgotten: whom a file names is not known. One
// that is being made is made anew.
func (k *keptFiles) forgetPeople(ctx context.Context, account contract.ID) error {
	_, err := k.emptied(ctx, fileWaits, 0, "", "f.account_id = $6::uuid AND f.state = $7", account, int16(fileMaking))
	if err == nil { // what has become ready before is among these
		_, err = k.emptied(ctx, fileFailed, meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_PERSON_FORGOTTEN, "", "f.account_id = $6::uuid AND f.state = $7", account, int16(fileReady))
	}
	return err
}

// expire removes what has been kept for long enough.
func (k *keptFiles) expire(ctx context.Context) error {
	if _, err := k.store.Projector.Exec(ctx, "DELETE FROM report_file WHERE expires < now()"); err != nil {
		return fmt.Errorf("metering: files that have been kept for long enough: %w", err)
	}
	return nil
}

var (
	// errNotOurs ends the making of a file that was cancelled, removed, or taken by another maker.
	errNotOurs = errors.New("metering: the file is not this maker's any more")
	errNoRoom  = errors.New("metering: the account has no room for the file")
)

// fileMaker is the claim of whoever makes a file. All that it writes, it writes as long as it holds.
type fileMaker struct {
	*keptFile
	files *keptFiles
	claim contract.ID
	holds time.Duration
}

// take claims the file whose turn it is; nil where there is none. Of accounts, that of which fewest are made comes
// first.
func (k *keptFiles) take(ctx context.Context, holds time.Duration) (*fileMaker, error) {
	m := &fileMaker{files: k, claim: resource.NewID(), holds: holds}
	err := pgx.BeginFunc(ctx, k.store.Projector, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `UPDATE report_file AS f SET state = $2, claim = $3, claimed_until = now() + $4, tries = f.tries + 1, begun = now(), written_rows = 0, written_bytes = 0, parts = 0, done_percent = NULL
			FROM (
				SELECT w.account_id, w.report_file_id FROM report_file AS w
				WHERE w.state = $1 AND w.not_before <= now() OR w.state = $2 AND w.claimed_until < now()
				ORDER BY (SELECT count(*) FROM report_file AS o WHERE o.account_id = w.account_id AND o.state = $2 AND o.claimed_until >= now()), w.created, w.report_file_id
				LIMIT 1 FOR UPDATE OF w SKIP LOCKED
			) AS n WHERE f.account_id = n.account_id AND f.report_file_id = n.report_file_id RETURNING `+keptColumns,
			int16(fileWaits), int16(fileMaking), m.claim, holds)
		if err != nil {
			return err
		}
		f, err := pgx.CollectExactlyOneRow(rows, scanKept)
		if err != nil {
			return err
		}
		m.keptFile = &f
		_, err = tx.Exec(ctx, "DELETE FROM report_file_part WHERE account_id = $1::uuid AND report_file_id = $2::uuid", f.account, f.id)
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("metering: %w", err)
	}
	return m, nil
}

// note keeps the claim, and how far the file is.
func (m *fileMaker) note(ctx context.Context, rows int64, done portion) error {
	var percent *int32
	if done.known {
		percent = &done.percent
	}
	return m.change(ctx, "claimed_until = now() + $4, written_rows = $5, done_percent = $6", m.holds, rows, percent)
}

// add keeps another part of the file, as long as the account has room for it.
func (m *fileMaker) add(ctx context.Context, key keyring.Key, content []byte) error {
	sealed := keyring.SealBytes(key, m.owner, m.sealedAs(m.parts), content)
	err := pgx.BeginFunc(ctx, m.files.store.Projector, func(tx pgx.Tx) error {
		if err := m.changeIn(ctx, tx, "claimed_until = now() + $4, parts = $5, written_bytes = $6", m.holds, m.parts+1, m.bytes+int64(len(content))); err != nil {
			return err
		}
		bytes, err := writtenBytes(ctx, tx, m.account)
		if err != nil {
			return err
		}
		if bytes > maxAccountBytes {
			return errNoRoom
		}
		_, err = tx.Exec(ctx, "INSERT INTO report_file_part (account_id, report_file_id, part, content) VALUES ($1, $2, $3, $4)", m.account, m.id, m.parts, sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	m.parts++
	m.bytes += int64(len(content))
	return nil
}

// ready ends the making of a file that is whole.
func (m *fileMaker) ready(ctx context.Context, reach authzv1.Reach, rows int64) error {
	return m.change(ctx, "state = $4, claim = NULL, claimed_until = NULL, reach = $5, written_rows = $6, done_percent = 100, ended = now(), expires = now() + $7",
		int16(fileReady), int16(reach), rows, keptFor)
}

// fail ends it where there can be no file.
func (m *fileMaker) fail(ctx context.Context, problem meteringv1.ReportFileProblem, detail string) error {
	n, err := m.files.emptied(ctx, fileFailed, problem, detail, "f.account_id = $6::uuid AND f.report_file_id = $7::uuid AND f.claim = $8::uuid", m.account, m.id, m.claim)
	if err == nil && n == 0 {
		err = errNotOurs
	}
	return err
}

// again has it begun anew after a pause; counted is false where nothing was wrong with the file.
func (m *fileMaker) again(ctx context.Context, pause time.Duration, counted bool) error {
	return m.change(ctx, "state = $4, claim = NULL, claimed_until = NULL, not_before = now() + $5, tries = tries - CASE WHEN $6 THEN 0 ELSE 1 END", int16(fileWaits), pause, counted)
}

// remove removes it, as where its owner is gone.
func (m *fileMaker) remove(ctx context.Context) error {
	_, err := m.files.store.Projector.Exec(ctx, "DELETE FROM report_file WHERE account_id = $1::uuid AND report_file_id = $2::uuid AND claim = $3::uuid", m.account, m.id, m.claim)
	return err
}

// change changes a file as long as the claim holds; set has arguments from $4 on.
func (m *fileMaker) change(ctx context.Context, set string, args ...any) error {
	if err := m.changeIn(ctx, m.files.store.Projector, set, args...); err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	return nil
}

// changeIn is change, in a transaction of the caller's or in one of its own.
func (m *fileMaker) changeIn(ctx context.Context, db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, set string, args ...any,
) error {
	tag, err := db.Exec(ctx, "UPDATE report_file SET "+set+" WHERE account_id = $1::uuid AND report_file_id = $2::uuid AND claim = $3::uuid", append([]any{m.account, m.id, m.claim}, args...)...)
	if err == nil && tag.RowsAffected() == 0 {
		err = errNotOurs
	}
	return err
}
