package command

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/ctl/rest"
)

func (s *session) apiCommand() *cobra.Command {
	var query []string
	var data string
	methods := []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete}
	c := &cobra.Command{
		Use: "api METHOD PATH", Short: "Ask the API itself, for what has no command of its own",
		Long: `Sends one request in your name, and writes the answer as it comes. The platform describes its paths
at /docs, and in /openapi.json.`,
		Example: `  cetrusctl api GET /v1/account
  cetrusctl api GET /v1/logins -q page_size=5 | jq '.logins[].name'
  cetrusctl api POST /v1/passwords:setOneTime -d '{"login_id": "01890a5d-ac96-774b-bcce-b302099a8057"}'`,
		Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return methods, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			method := strings.ToUpper(args[0])
			if !slices.Contains(methods, method) {
				return usagef("%q is none of %s", args[0], strings.Join(methods, ", "))
			}
			path, inPath, has := strings.Cut(args[1], "?")
			if !strings.HasPrefix(path, "/") {
				return usagef("%q is no path: it begins with /, as /v1/account", args[1])
			}
			values, err := url.ParseQuery(inPath)
			if has && err != nil {
				return usagef("%q is no query: %w", inPath, err)
			}
			for _, q := range query {
				name, value, ok := strings.Cut(q, "=")
				if !ok {
					return usagef("-q is NAME=VALUE, and not %q", q)
				}
				values.Add(name, value)
			}
			request := rest.Request{Method: method, Path: path, Query: values}
			if data != "" {
				if request.Body, err = s.body(data); err != nil {
					return err
				}
			}
			conn, err := s.connection()
			if err != nil {
				return err
			}
			response, err := conn.Do(c.Context(), request)
			if err != nil {
				return err
			}
			defer func() { _ = response.Body.Close() }()
			_, err = io.Copy(s.Out, response.Body)
			return err
		},
	}
	c.Flags().StringArrayVarP(&query, "query", "q", nil, "a parameter, as page_size=5; may be repeated")
	c.Flags().StringVarP(&data, "data", "d", "", "JSON to send; @FILE reads a file, - the standard input")
	return c
}

// body is what is sent, which is JSON.
func (s *session) body(data string) ([]byte, error) {
	text := []byte(data)
	var err error
	switch file, named := strings.CutPrefix(data, "@"); {
	case data == "-":
		text, err = io.ReadAll(s.In)
	case named:
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, err
	}
	if !json.Valid(text) {
		return nil, usageError{errors.New("--data is no JSON")}
	}
	return text, nil
}
