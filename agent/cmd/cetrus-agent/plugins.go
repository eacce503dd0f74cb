package main

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/plugin"
	"github.com/cetrus/cetrus/agent/prompt"
	signing "github.com/cetrus/cetrus/proto/release"
)

// promptName is the command that asks for a project.
const promptName = "prompt"

// promptCommand shows one question; the agent runs it in the person's session.
func promptCommand() *cobra.Command {
	return &cobra.Command{
		Use: promptName, Short: "Ask the person at the desktop for a project: JSON in, JSON out", Args: cobra.NoArgs, Hidden: true,
		// It needs no settings, and a mistake in them must not keep it from asking.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return prompt.Run(cmd.Context(), os.Stdin, cmd.OutOrStdout())
		},
	}
}

// plugins says which plug-ins run.
func (s *settings) plugins(watched desktop.Desktop) (*agent.PluginsConfig, error) {
	config := &agent.PluginsConfig{Dir: s.pluginDir}
	keys, err := readKeys(s.pluginKeys)
	if err != nil {
		return nil, err
	}
	config.Keys = keys
	if len(keys) > 0 {
		config.Releases = &agent.PluginReleasesConfig{Keys: signing.Keys(keys), System: runtime.GOOS, Architecture: runtime.GOARCH}
	}
	if launcher, ok := watched.(desktop.Launcher); ok {
		self, err := thisProgram()
		if err != nil {
			return nil, err
		}
		config.Prompt = func(session string) prompt.Starter {
			return func(f prompt.Files) (prompt.Program, error) {
				return launcher.Launch(session, desktop.Program{Executable: self, Args: []string{promptName}, In: f.In, Out: f.Out, Err: f.Err})
			}
		}
	}
	return config, nil
}

// readKeys reads who may sign lists of plug-ins: {"keys": {"id": "public key in base64"}}.
func readKeys(file string) (plugin.Keys, error) {
	if file == "" {
		return nil, nil // nobody is trusted; the status says that the list is refused
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("plugin-keys: %w", err)
	}
	var list struct {
		Keys map[string][]byte `json:"keys"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf(`plugin-keys: %s is not {"keys": {"id": "public key in base64"}}: %w`, file, err)
	}
	keys := plugin.Keys{}
	for id, key := range list.Keys {
		if len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("plugin-keys: %s: the key %q has %d bytes; an Ed25519 public key has %d", file, id, len(key), ed25519.PublicKeySize)
		}
		keys[id] = key
	}
	return keys, nil
}
