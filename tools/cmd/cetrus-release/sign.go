package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/proto/release"
)

// secret is the file that signs. It never leaves the vendor.
type secret struct {
	KeyID string `json:"key_id"`
	// Seed of an Ed25519 key.
	Seed []byte `json:"ed25519_seed"`
}

func execute(args []string, out, errOut io.Writer) int {
	root := &cobra.Command{Use: "cetrus-release", Short: "Makes keys, and signs releases", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(keyCommand(), signCommand())
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	if err := root.Execute(); err != nil {
		_, _ = fmt.Fprintln(errOut, "cetrus-release:", err)
		return 1
	}
	return 0
}

func keyCommand() *cobra.Command {
	var id, secretFile, publicFile string
	c := &cobra.Command{
		Use: "key", Short: "Make a key: a secret file, and a file of the public key for Managers and agents", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if id == "" {
				return errors.New("name the key with --id, for example by your company and the year")
			}
			public, private, err := release.NewKey()
			if err != nil {
				return err
			}
			if err := write(secretFile, secret{id, private.Seed()}, 0o600); err != nil {
				return err
			}
			if err := write(publicFile, map[string]any{"keys": map[string][]byte{id: public}}, 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s signs: keep it secret, and a copy of it safe\n%s goes to Managers and agents, as release-keys\n", secretFile, publicFile)
			return err
		},
	}
	c.Flags().StringVar(&id, "id", "", "what Managers and agents know the key by")
	c.Flags().StringVar(&secretFile, "secret", "release-secret.json", "file of the secret key; it must not exist yet")
	c.Flags().StringVar(&publicFile, "public", "release-keys.json", "file of the public key; it must not exist yet")
	return c
}

// write makes a file that must not be there.
func write(path string, value any, mode fs.FileMode) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

func signCommand() *cobra.Command {
	var m release.Manifest
	var secretFile, output string
	c := &cobra.Command{
		Use: "sign PROGRAM", Short: "Make the release file of a program", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			private, id, err := readSecret(secretFile)
			if err != nil {
				return err
			}
			program, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			sum := sha256.Sum256(program)
			m.Size, m.SHA256, m.Released = int64(len(program)), hex.EncodeToString(sum[:]), time.Now().UTC().Truncate(time.Second)
			signed, err := release.Sign(m, id, private)
			if err != nil {
				return err
			}
			header, err := signed.Header()
			if err != nil {
				return err
			}
			if output == "" {
				output = fmt.Sprintf("%s-%d-%s-%s.release", m.Name, m.Number, m.System, m.Architecture)
			}
			f, err := os.OpenFile(output, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			_, err = f.Write(append(header, program...))
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %v, signed with the key %q\n", output, m, id)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&secretFile, "secret", "release-secret.json", "file of the secret key")
	f.StringVar(&output, "output", "", "release file to make (default by name, number, system and architecture)")
	f.StringVar(&m.Name, "name", release.AgentName, "what it is a release of: the agent, or a plug-in's name")
	f.StringVar(&m.Version, "version", "", "its version, for people")
	f.Uint64Var(&m.Number, "number", 0, "its number: greater than that of every release before it; build the agent with the same, by -ldflags \"-X main.releaseNumber=N\"")
	f.Uint64Var(&m.Least, "least-replaced", 0, "least number that it may replace directly")
	f.StringVar(&m.System, "system", "linux", "operating system, as Go calls it")
	f.StringVar(&m.Architecture, "architecture", "amd64", "architecture, as Go calls it")
	return c
}

func readSecret(path string) (ed25519.PrivateKey, string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, "", fmt.Errorf("%s can be read by others (mode %o); it signs what runs on every desktop: chmod 600", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, "", err
	}
	var s secret
	if err := json.Unmarshal(text, &s); err != nil || len(s.Seed) != ed25519.SeedSize || s.KeyID == "" {
		return nil, "", fmt.Errorf("%s is no secret key that `cetrus-release key` has made", path)
	}
	return ed25519.NewKeyFromSeed(s.Seed), s.KeyID, nil
}
