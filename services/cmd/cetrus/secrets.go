package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

// The names of secrets, after the prefix of the installation. Those of NATS are followed by a role, those of
// TLS by a workload.
const (
	secretAccount    = "account"
	secretFirstLogin = "first-login"
	secretSignInKey  = "sign-in-key"
	secretNameKey    = "name-key"
	secretArchiveKey = "archive-key"
	secretNATSUsers  = "nats-users"
	secretNATS       = "nats-"
	secretPostgres   = "postgres"
	secretAuthority  = "tls-ca"
	secretTLS        = "tls-"
)

// secretStore is where the secrets of an installation are kept. Each is a few files by their names.
type secretStore interface {
	// get answers nil where there is no such secret.
	get(ctx context.Context, name string) (map[string][]byte, error)
	// create keeps one that is not there; tls says that it is a certificate.
	create(ctx context.Context, name string, files map[string][]byte, tls bool) error
	// update puts files in the place of those of one that get has answered.
	update(ctx context.Context, name string, files map[string][]byte) error
	// remove removes one, if it is there.
	remove(ctx context.Context, name string) error
}

// secretsSettings are those of `cetrus secrets`.
type secretsSettings struct {
	namespace, prefix, output string
	instance                  string
	tls                       bool
	tlsLife                   time.Duration
	tlsNames                  []string
	postgresHost              string
	remove                    bool
	// backups is a store of backups, of which one has keys that are taken instead of new ones; backup names it.
	backups, backup string
}

// secretsCommand makes what a new installation needs to be secret, in the cluster in which it runs or in a folder.
func secretsCommand(stdout io.Writer) *cobra.Command {
	var s secretsSettings
	cmd := &cobra.Command{
		Use:   "secrets",
		Short: "Make the secrets of an installation whose parts run apart, where they are not there; renew its own certificates",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			m, err := s.maker(stdout, time.Now())
			if err != nil {
				return err
			}
			if s.remove {
				return m.removeAll(cmd.Context())
			}
			return m.makeAll(cmd.Context())
		},
	}
	fs := cmd.Flags()
	config.AddFileFlag(fs)
	fs.StringVar(&s.namespace, "namespace", "", "namespace of the secrets; default: that in which this runs")
	fs.StringVar(&s.prefix, "prefix", "", "what the names of the secrets, and of the services that certificates are for, begin with")
	fs.StringVar(&s.instance, "instance", "", "the installation, told in the label app.kubernetes.io/instance of each secret in the cluster, as Helm names the release")
	fs.StringVar(&s.output, "output", "", "directory to make them in, each a directory of files, instead of in the cluster")
	fs.BoolVar(&s.tls, "tls", true, "make an authority and a certificate for each part; false: others supply them")
	fs.DurationVar(&s.tlsLife, "tls-life", 90*24*time.Hour, "how long certificates are good for; this command renews them when a third of that is left")
	fs.StringSliceVar(&s.tlsNames, "tls-name", nil, "further host name or address of a part, for its certificate, as metering=10.0.0.7; may be repeated")
	fs.StringVar(&s.postgresHost, "postgres-host", "", "host of a PostgreSQL server of the installation's own, for which a password and a certificate are made too")
	fs.StringVar(&s.backups, "from-backups", "", "store of backups, as in cetrus backup --to: the keys of its latest backup are taken where new ones would be made, for it to be restored; the secret archive-key, which opens it, has to be there")
	fs.StringVar(&s.backup, "backup", "", "name of the backup for from-backups; default: the latest")
	fs.BoolVar(&s.remove, "delete", false, "remove them all instead: nothing that they protect can be read any more")
	return cmd
}

func (s *secretsSettings) maker(out io.Writer, now time.Time) (*secretMaker, error) {
	m := &secretMaker{secretsSettings: *s, out: out, now: now}
	if s.tlsLife < time.Hour {
		return nil, config.Problem("tls-life", s.tlsLife.String(), "must be an hour at least, as 2160h")
	}
	for _, text := range s.tlsNames {
		workload, name, ok := strings.Cut(text, "=")
		if !ok || name == "" || !slices.Contains(m.workloads(), workload) {
			return nil, config.Problem("tls-name", text, "must be PART=NAME; the parts are "+strings.Join(m.workloads(), ", "))
		}
	}
	if s.output != "" {
		m.store = secretFolder(s.output)
		return m, nil
	}
	var err error
	m.store, m.namespace, err = openCluster(s.namespace, s.instance)
	return m, err
}

// secretMaker makes the secrets of one installation.
type secretMaker struct {
	secretsSettings

	store secretStore
	out   io.Writer
	now   time.Time
	// given are files that a backup has.
	given map[string][]byte
}

// name is a secret's whole name.
func (m *secretMaker) name(of string) string {
	if m.prefix == "" {
		return of
	}
	return m.prefix + "-" + of
}

// workloads are the parts that have a certificate.
func (m *secretMaker) workloads() []string {
	all := []string{"nats", natsserver.Identity, natsserver.Metering, natsserver.Keyring, natsserver.Gateway, archiveTarget}
	if m.postgresHost != "" {
		all = append(all, secretPostgres)
	}
	return all
}

func (m *secretMaker) makeAll(ctx context.Context) error {
	if err := m.openBackup(ctx); err != nil {
		return err
	}
	steps := []func(context.Context) error{
		m.account, m.key(secretSignInKey, signInKeyFile, signin.NewKeyFile), m.key(secretNameKey, nameKeyFile, keyring.NewKeyFile),
		m.key(secretArchiveKey, archive.KeyFile, archive.NewKeyFile), m.natsPasswords,
	}
	if m.postgresHost != "" {
		steps = append(steps, m.postgres)
	}
	if m.tls {
		steps = append(steps, m.certificates)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *secretMaker) removeAll(ctx context.Context) error {
	names := []string{secretAccount, secretFirstLogin, secretSignInKey, secretNameKey, secretArchiveKey, secretNATSUsers}
	for _, role := range natsserver.Roles() {
		names = append(names, secretNATS+role)
	}
	if m.postgresHost != "" {
		names = append(names, secretPostgres)
	}
	if m.tls {
		names = append(names, secretAuthority)
		for _, workload := range m.workloads() {
			names = append(names, secretTLS+workload)
		}
	}
	for _, name := range names {
		if err := m.store.remove(ctx, m.name(name)); err != nil {
			return err
		}
		m.say(name, "removed")
	}
	return nil
}

func (m *secretMaker) get(ctx context.Context, name string) (map[string][]byte, error) {
	return m.store.get(ctx, m.name(name))
}

func (m *secretMaker) create(ctx context.Context, name string, files map[string][]byte, tls bool) error {
	err := m.store.create(ctx, m.name(name), files, tls)
	if err == nil {
		m.say(name, "made")
	}
	return err
}

func (m *secretMaker) update(ctx context.Context, name, what string, files map[string][]byte) error {
	err := m.store.update(ctx, m.name(name), files)
	if err == nil {
		m.say(name, what)
	}
	return err
}

func (m *secretMaker) say(name, what string) {
	_, _ = fmt.Fprintf(m.out, "%s: %s\n", m.name(name), what)
}

// openBackup takes the keys of a backup, where one is named.
func (m *secretMaker) openBackup(ctx context.Context) error {
	if m.backups == "" {
		return nil
	}
	store, err := openBackups("from-backups", m.backups)
	if err != nil {
		return err
	}
	there, err := m.get(ctx, secretArchiveKey)
	if err != nil {
		return err
	}
	if there[archive.KeyFile] == nil {
		return errs.New(errs.Precondition, "cetrus secrets", m.name(secretArchiveKey), "is not there: make it of your copy of the file "+archive.KeyFile+", with which alone the backup opens")
	}
	keys, err := archive.ParseKeys(m.name(secretArchiveKey), there[archive.KeyFile])
	if err != nil {
		return err
	}
	kept, about, err := openKept(ctx, store, keys, m.backup)
	if err != nil {
		return err
	}
	m.given = make(map[string][]byte)
	if err := eachKeyFile(ctx, kept, about, func(name string, content []byte) error {
		m.given[name] = content
		return nil
	}); err != nil {
		return err
	}
	// With new keys in their place what the backup holds could not be read.
	for secret, file := range map[string]string{secretNameKey: nameKeyFile, secretSignInKey: signInKeyFile} {
		if m.given[file] != nil {
			continue
		}
		there, err := m.get(ctx, secret)
		if err != nil {
			return err
		}
		if there == nil {
			return errs.New(errs.Precondition, "cetrus secrets", m.name(secret), "is not there, and backup "+kept.Name+" was made without the file "+file+": make it of your copy of that")
		}
	}
	return nil
}

// account makes the operator's account, with an API key and the first administrator's password. They are made
// before the account, which is made of the key: where this is interrupted between them, the next run goes on.
// Once the account is there, the first login may be removed for good.
func (m *secretMaker) account(ctx context.Context) error {
	there, err := m.get(ctx, secretAccount)
	if err != nil || there != nil {
		return err
	}
	if given := m.given[authn.AccountFile]; given != nil {
		return m.create(ctx, secretAccount, map[string][]byte{authn.AccountFile: given}, false)
	}
	login, err := m.get(ctx, secretFirstLogin)
	if err != nil {
		return err
	}
	if login == nil {
		_, key := authn.NewKey()
		login = map[string][]byte{
			authn.KeyFile: []byte(key + "\n"), authn.FirstPasswordFile: []byte(credential.NewOneTimePassword() + "\n"),
		}
		if err := m.create(ctx, secretFirstLogin, login, false); err != nil {
			return err
		}
	}
	account, err := authn.NewAccountFile(strings.TrimSpace(string(login[authn.KeyFile])), m.now)
	if err != nil {
		return errs.As(errs.Precondition, "cetrus secrets", m.name(secretFirstLogin), "is there, and its "+authn.KeyFile+" is no API key: remove it, and another is made", err)
	}
	return m.create(ctx, secretAccount, map[string][]byte{authn.AccountFile: account}, false)
}

// key makes a secret of one file.
func (m *secretMaker) key(name, file string, fresh func() []byte) func(context.Context) error {
	return func(ctx context.Context) error {
		there, err := m.get(ctx, name)
		if err != nil || there != nil {
			return err
		}
		content := m.given[file]
		if content == nil {
			content = fresh()
		}
		return m.create(ctx, name, map[string][]byte{file: content}, false)
	}
}

// natsPasswords makes the users of NATS, and for each role of a part a secret of its password alone. A role that
// is new in a release is added to those that are there.
func (m *secretMaker) natsPasswords(ctx context.Context) error {
	there, err := m.get(ctx, secretNATSUsers)
	if err != nil {
		return err
	}
	var users managersText
	if there != nil {
		if err := json.Unmarshal(there[managersFile], &users); err != nil {
			return errs.As(errs.Precondition, "cetrus secrets", m.name(secretNATSUsers), managersFile+" in it is damaged: restore it, or remove it with the "+m.name(secretNATS)+"… to give every part a new password", err)
		}
	}
	if users.Parts == nil {
		users.Parts = make(map[string]string)
	}
	fresh := users.Cluster == ""
	if fresh {
		users.Cluster = natsserver.NewPassword()
	}
	for _, role := range natsserver.Roles() {
		if users.Parts[role] == "" {
			users.Parts[role], fresh = natsserver.NewPassword(), true
		}
	}
	text, err := json.MarshalIndent(users, "", "  ")
	if err != nil {
		return errs.Wrap("cetrus secrets", managersFile, err)
	}
	files := map[string][]byte{managersFile: append(text, '\n')}
	switch {
	case there == nil:
		err = m.create(ctx, secretNATSUsers, files, false)
	case fresh:
		err = m.update(ctx, secretNATSUsers, "new parts were added", files)
	}
	if err != nil {
		return err
	}
	for _, role := range natsserver.Roles() {
		password := func() []byte { return []byte(users.Parts[role] + "\n") }
		if err := m.key(secretNATS+role, natsPasswordFile, password)(ctx); err != nil {
			return err
		}
	}
	return nil
}

// postgres makes the password of a PostgreSQL server of the installation's own, and the URL with it.
func (m *secretMaker) postgres(ctx context.Context) error {
	there, err := m.get(ctx, secretPostgres)
	if err != nil || there != nil {
		return err
	}
	const user = "cetrus"
	password := natsserver.NewPassword()
	database := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, password), Host: m.postgresHost + ":5432", Path: "/" + user,
		RawQuery: url.Values{"sslmode": {"verify-full"}, "sslrootcert": {"/etc/cetrus/tls/" + tlsfiles.AuthorityFile}}.Encode(),
	}
	return m.create(ctx, secretPostgres, map[string][]byte{"password": []byte(password), "url": []byte(database.String())}, false)
}

// certificates makes an authority and by it a certificate for each part, and renews those of its own.
func (m *secretMaker) certificates(ctx context.Context) error {
	there := make(map[string]map[string][]byte)
	missing := []string{}
	for _, workload := range m.workloads() {
		files, err := m.get(ctx, secretTLS+workload)
		if err != nil {
			return err
		}
		if there[workload] = files; files == nil {
			missing = append(missing, workload)
		}
	}
	authority, err := m.authority(ctx, len(missing) == len(m.workloads()))
	if err != nil {
		return err
	}
	if authority == nil {
		if len(missing) > 0 {
			return errs.New(errs.Precondition, "cetrus secrets", m.name(secretAuthority), "is not there, and other certificates are, which somebody supplies: have them supply those of "+strings.Join(missing, ", ")+" too")
		}
		return nil
	}
	for _, workload := range m.workloads() {
		files := there[workload]
		renews := false
		if files != nil {
			if renews, err = authority.Renews(tlsfiles.Pair{Certificate: files[tlsfiles.CertificateFile], Key: files[tlsfiles.KeyFile]}, m.now); err != nil {
				return errs.As(errs.Precondition, "cetrus secrets", m.name(secretTLS+workload), "cannot be read: remove it, and another is made", err)
			}
		}
		if files != nil && !renews {
			continue
		}
		pair, err := authority.Issue(m.hosts(workload), m.tlsLife, m.now)
		if err != nil {
			return err
		}
		fresh := map[string][]byte{tlsfiles.CertificateFile: pair.Certificate, tlsfiles.KeyFile: pair.Key, tlsfiles.AuthorityFile: authority.Certificate}
		if files == nil {
			err = m.create(ctx, secretTLS+workload, fresh, true)
		} else {
			err = m.update(ctx, secretTLS+workload, "renewed", fresh)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// authority opens the installation's own, or makes it where it may; nil where there is none.
func (m *secretMaker) authority(ctx context.Context, makes bool) (*tlsfiles.Authority, error) {
	there, err := m.get(ctx, secretAuthority)
	if err != nil {
		return nil, err
	}
	if there != nil {
		authority, err := tlsfiles.ParseAuthority(tlsfiles.Pair{Certificate: there[tlsfiles.CertificateFile], Key: there[tlsfiles.KeyFile]})
		return authority, errs.Wrap("cetrus secrets", m.name(secretAuthority), err)
	}
	if !makes {
		return nil, nil
	}
	authority, err := tlsfiles.NewAuthority(strings.Join(strings.Fields("Cetrus "+m.prefix), " "), m.now)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{tlsfiles.CertificateFile: authority.Certificate, tlsfiles.KeyFile: authority.Key}
	return authority, m.create(ctx, secretAuthority, files, true)
}

// hosts are the names that a part is called by: in a cluster those of its Service and of the pods behind that.
func (m *secretMaker) hosts(workload string) []string {
	service := m.name(workload)
	names := []string{service, "localhost", "127.0.0.1", "::1"}
	if m.namespace != "" {
		names = append(names, service+"."+m.namespace, "*."+service)
		for _, whole := range []string{service + "." + m.namespace + ".svc", service + "." + m.namespace + ".svc.cluster.local"} {
			names = append(names, whole, "*."+whole)
		}
	}
	for _, text := range m.tlsNames {
		if of, name, _ := strings.Cut(text, "="); of == workload {
			names = append(names, name)
		}
	}
	return names
}
