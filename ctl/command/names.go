package command

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

// completionPatience is how long a shell waits for names from the server.
const completionPatience = 3 * time.Second

// complete asks the server for what may be typed. Where it cannot be asked, nothing is offered.
func (s *session) complete(c *cobra.Command, word string, ask func(context.Context, *api) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	a, err := s.api()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	parent := c.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionPatience)
	defer cancel()
	names, err := ask(ctx, a)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return narrowed(names, word), cobra.ShellCompDirectiveNoFileComp
}

// narrowed are the names that begin as was typed, whatever the case, in order: not every shell leaves out the others.
func narrowed(names []string, word string) []string {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return len(name) < len(word) || !strings.EqualFold(name[:len(word)], word)
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// unknown is the error of a name that nothing has, with those that are near.
func unknown(kind, name string, known []string) error {
	word := strings.ToLower(name)
	var near []string
	for _, other := range known {
		if o := strings.ToLower(other); o != "" && (strings.Contains(o, word) || distance(o, word) <= 2) && !slices.Contains(near, other) {
			near = append(near, other)
		}
	}
	const most = 5
	hint := ""
	if len(near) > 0 {
		hint = "; there is " + strings.Join(near[:min(most, len(near))], ", ")
	}
	return usagef("there is no %q among the %s%s", name, kind, hint)
}

// distance is how many letters have to change to make one word of another, as far as that matters.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	const far = 99
	if len(x) > len(y)+2 || len(y) > len(x)+2 || len(x) > far {
		return far
	}
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			cost := diagonal
			if x[i] != y[j] {
				cost = min(diagonal, row[j], row[j+1]) + 1
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(y)]
}

// resolve turns names into ids; what is an id already stays so. Several of one name are all meant.
func resolve[T proto.Message](q *question, r resource[T], names []string, id func(T) string) ([]string, error) {
	var ids, wanted []string
	for _, name := range names {
		if _, err := uuid.Parse(name); err == nil {
			ids = append(ids, name)
		} else {
			wanted = append(wanted, name)
		}
	}
	if len(wanted) == 0 {
		return ids, nil
	}
	items, err := r.find(q, wanted)
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		if found := id(item); !slices.Contains(ids, found) {
			ids = append(ids, found)
		}
	}
	return ids, nil
}

// one resolves a name that must mean one thing.
func one[T proto.Message](q *question, r resource[T], name string, id func(T) string) (string, error) {
	ids, err := resolve(q, r, []string{name}, id)
	if err == nil && len(ids) != 1 {
		err = usagef("%d %s are called %q: name one by its id: %s", len(ids), r.name, name, strings.Join(ids, ", "))
	}
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// completeNames offers the names of a resource, for flags.
func completeNames[T proto.Message](s *session, r resource[T]) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return s.complete(c, word, func(ctx context.Context, a *api) ([]string, error) {
			var names []string
			err := r.each(&question{ctx: ctx, s: s, a: a}, func(items []T) error {
				for _, item := range items {
					if all := r.names(item); all[len(all)-1] != "" {
						names = append(names, all[len(all)-1])
					}
				}
				return nil
			})
			return names, err
		})
	}
}

// plural is a number with its word.
func plural(n int, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, one)
	}
	return fmt.Sprintf("%d %s", n, many)
}
