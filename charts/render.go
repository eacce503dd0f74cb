package charts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Release is what a chart is rendered for.
type Release struct {
	// Chart is the chart's folder.
	Chart string
	// Values are those given to the installation; Files such files, of which later ones win
	// over earlier ones, and Values over all of them.
	Files  []string
	Values map[string]any
	// Upgrade: it is there already.
	Upgrade bool
	// Cluster tells what is in the cluster already; nil: nothing can be asked.
	Cluster engine.ClientProvider
	// Lacks are APIs of operators that the cluster does not have; all others of [Operators] it has.
	Lacks []string
}

// Operators are APIs that the charts use where a cluster has them.
var Operators = []string{"cert-manager.io/v1", "gateway.networking.k8s.io/v1", "monitoring.coreos.com/v1", "postgresql.cnpg.io/v1"}

// Namespace and Name are those of every release that is rendered here.
const (
	Namespace = "usage"
	Name      = "cetrus"
)

// Rendered is what a chart makes of its values.
type Rendered struct {
	// Text is all manifests, in the order of their files.
	Text string
	// Objects are the same, decoded.
	Objects []unstructured.Unstructured
	// Notes is what the person who installs is told.
	Notes string
}

// Render renders a chart as `helm install` would, its schema applied.
func Render(ctx context.Context, r Release) (Rendered, error) {
	chart, err := loader.LoadDir(r.Chart)
	if err != nil {
		return Rendered{}, fmt.Errorf("charts: %s: %w", r.Chart, err)
	}
	values := map[string]any{}
	for _, file := range r.Files {
		text, err := os.ReadFile(file)
		if err != nil {
			return Rendered{}, fmt.Errorf("charts: %w", err)
		}
		more, err := loader.LoadValues(bytes.NewReader(text))
		if err != nil {
			return Rendered{}, fmt.Errorf("charts: %s: %w", file, err)
		}
		values = loader.MergeMaps(values, more)
	}
	values = loader.MergeMaps(values, r.Values)

	cluster := common.DefaultCapabilities.Copy()
	for _, api := range Operators {
		if !slices.Contains(r.Lacks, api) {
			cluster.APIVersions = append(cluster.APIVersions, api)
		}
	}
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{
		Name: Name, Namespace: Namespace, Revision: 1, IsInstall: !r.Upgrade, IsUpgrade: r.Upgrade,
	}, cluster)
	if err != nil {
		return Rendered{}, fmt.Errorf("charts: %s: %w", r.Chart, err)
	}
	render := func() (map[string]string, error) {
		return engine.Engine{Strict: true}.RenderWithContext(ctx, chart, all)
	}
	if r.Cluster != nil {
		render = func() (map[string]string, error) {
			return engine.RenderWithClientProvider(chart, all, r.Cluster)
		}
	}
	files, err := render()
	if err != nil {
		return Rendered{}, fmt.Errorf("charts: %s: %w", r.Chart, err)
	}
	var made Rendered
	for _, file := range slices.Sorted(maps.Keys(files)) {
		text := strings.TrimSpace(files[file])
		switch {
		case filepath.Base(file) == "NOTES.txt":
			made.Notes = text
		case strings.HasSuffix(file, ".yaml") && text != "":
			made.Text += "---\n# Source: " + file + "\n" + strings.TrimPrefix(text, "---\n") + "\n"
		}
	}
	made.Objects, err = decode(made.Text)
	if err != nil {
		return made, fmt.Errorf("charts: %s: %w", r.Chart, err)
	}
	return made, nil
}

func decode(text string) (objects []unstructured.Unstructured, err error) {
	documents := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		var object map[string]any
		if err := yaml.UnmarshalStrict(document, &object); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, document)
		}
		if len(object) > 0 {
			objects = append(objects, unstructured.Unstructured{Object: object})
		}
	}
}
