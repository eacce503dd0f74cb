package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// checkWithin is how long a platform may take to answer both questions.
const checkWithin = 30 * time.Second

// checking says which platform is asked, and as whom.
type checking struct {
	url, caFile, serverName, apiKeyFile string
	// apiKeyOptional leaves out what a key is needed for, where its file is not there.
	apiKeyOptional bool
}

// checkCommand asks a platform, wherever it runs, whether it does its work: what `helm test` runs.
func checkCommand(stdout io.Writer) *cobra.Command {
	var c checking
	cmd := &cobra.Command{
		Use: "check", Short: "Ask a platform whether it is ready, and read something of it by an API key", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), checkWithin)
			defer cancel()
			said, err := c.ask(ctx)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(stdout, said)
			return err
		},
	}
	flags := cmd.Flags()
	config.AddFileFlag(flags)
	flags.StringVar(&c.url, "url", "", "the platform's REST address, as https://cetrus.example.com")
	flags.StringVar(&c.caFile, "ca-file", "", "certificates by which it is known; default, and where the file is not there: the system's")
	flags.StringVar(&c.serverName, "server-name", "", "name that its certificate is for, where it is not that of the URL")
	flags.StringVar(&c.apiKeyFile, "api-key-file", "", "file of an API key")
	flags.BoolVar(&c.apiKeyOptional, "api-key-optional", false, "where that file is not there, ask only whether the platform is ready, and say so")
	return cmd
}

// ask returns what the platform was found to do.
func (c checking) ask(ctx context.Context) (string, error) {
	base, err := url.Parse(c.url)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return "", config.Problem("url", c.url, "give the platform's REST address, as https://cetrus.example.com")
	}
	key, err := os.ReadFile(c.apiKeyFile)
	without := c.apiKeyOptional && errors.Is(err, fs.ErrNotExist)
	if err != nil && !without {
		return "", errs.As(errs.Invalid, "cetrus.check", "api-key-file "+c.apiKeyFile, "cannot be read: name the file of an API key", err)
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.serverName}
	if c.caFile != "" {
		authority, err := os.ReadFile(c.caFile)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return "", errs.As(errs.Invalid, "cetrus.check", "ca-file "+c.caFile, "cannot be read", err)
		default:
			trust.RootCAs = x509.NewCertPool()
			if !trust.RootCAs.AppendCertsFromPEM(authority) {
				return "", config.Problem("ca-file", c.caFile, "holds no certificate in PEM")
			}
		}
	}
	transport := &http.Transport{TLSClientConfig: trust, Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	if _, err := get(ctx, client, base.JoinPath("readyz").String(), ""); err != nil {
		return "", err
	}
	if without {
		return "The platform is ready. Nothing was read of it, as there is no API key at " + c.apiKeyFile + ": to have that tried too, name a Secret with one (test.apiKeySecret).", nil
	}
	text, err := get(ctx, client, base.JoinPath("v1", "applications").String(), strings.TrimSpace(string(key)))
	if err != nil {
		return "", err
	}
	var page struct {
		Applications []json.RawMessage `json:"applications"`
	}
	if err := json.Unmarshal(text, &page); err != nil {
		return "", errs.As(errs.Unavailable, "cetrus.check", c.url, "does not answer as a platform does", err)
	}
	return fmt.Sprintf("The platform is ready, and lets the key read: the first page of applications has %d.", len(page.Applications)), nil
}

// get reads an address whose answer is well.
func get(ctx context.Context, client *http.Client, address, key string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errs.Wrap("cetrus.check", address, err)
	}
	if key != "" {
		req.Header.Set("X-API-Key", key)
	}
	answer, err := client.Do(req)
	if err != nil {
		return nil, errs.As(errs.Unavailable, "cetrus.check", address, "cannot be asked", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.500s", answer.Status, text)
	}
	return text, errs.As(errs.Unavailable, "cetrus.check", address, "does not answer as it should", err)
}
