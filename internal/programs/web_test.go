package programs_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/backfillhq/go/internal/dbtest"
	"github.com/backfillhq/go/testutil/pgtest"
)

const (
	placedOrders = "select id from shop.orders"
	jobs         = "select payload->>'order_id' from graphile_worker._private_jobs as j"
)

// The web server changes no schema: it says what to do, and the step that does it can be repeated.
func TestWebMigratesInAStepOfItsOwn(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	url := "DATABASE_URL=" + db.URL
	if code, log := start(t, "web", nil, url).wait(t); code != 1 || !strings.Contains(log, "backfill migrate") {
		t.Errorf("on an empty database it ends with %d: %s", code, log)
	}
	for range 2 {
		if code, log := start(t, "web", []string{"migrate"}, url).wait(t); code != 0 {
			t.Fatalf("migrate ends with %d: %s", code, log)
		}
	}
	web := start(t, "web", nil, url).listening(t)
	web.order(t, "1", "ada@example.com")
	web.stop(t)
	if got := rows(t, db.Pool(), jobs); got != "1" {
		t.Errorf("there are jobs for the orders %q", got)
	}
	if code, _ := start(t, "web", []string{"serve"}, url).wait(t); code != 1 {
		t.Errorf("a wrong argument ends with %d", code)
	}
}

// newShop returns a database with the tables, and a server on it.
func newShop(t *testing.T) (*pgtest.Database, *process) {
	t.Helper()
	db := migrated(t)
	return db, start(t, "web", nil, "DATABASE_URL="+db.URL).listening(t)
}

func migrated(t *testing.T) *pgtest.Database {
	t.Helper()
	db := pgtest.New(t)
	if code, log := start(t, "web", []string{"migrate"}, "DATABASE_URL="+db.URL).wait(t); code != 0 {
		t.Fatalf("migrate ends with %d: %s", code, log)
	}
	return db
}

// An order has a job, an order that was not placed has none, and the answer says which it is.
func TestOrders(t *testing.T) {
	t.Parallel()
	db, web := newShop(t)
	const ada = "ada@example.com"
	for _, request := range []struct {
		method, id, body string
		code             int
		placed           bool
	}{
		{http.MethodPut, "1", orderOf(ada, 1), http.StatusCreated, true},
		{http.MethodPut, "1", orderOf(ada, 1), http.StatusOK, true},
		{http.MethodPut, "2", "{", http.StatusBadRequest, false},
		{http.MethodPut, "3", orderOf("", 1), http.StatusBadRequest, false},
		{http.MethodPut, "4", orderOf(ada, 0), http.StatusBadRequest, false},
		{http.MethodPut, "5", orderOf(strings.Repeat("a", 200), 1), http.StatusUnprocessableEntity, false},
		{http.MethodPut, "6", orderOf(ada, 1000), http.StatusConflict, false}, // after the job was enqueued
		{http.MethodPost, "7", orderOf(ada, 1), http.StatusMethodNotAllowed, false},
		{http.MethodPut, "8", orderOf(ada, 99), http.StatusCreated, true}, // what was rolled back took nothing
	} {
		code, text := web.status(t, request.method, "/orders/"+request.id, request.body)
		if code != request.code {
			t.Errorf("%+v: %d %s", request, code, text)
		}
		for what, query := range map[string]string{"order": "select id from shop.orders where id = $1", "job": jobs + " where payload->>'order_id' = $1"} {
			if got := rows(t, db.Pool(), query, request.id); (got == request.id) != request.placed {
				t.Errorf("%+v: the %s %q is there", request, what, got)
			}
		}
	}
	if _, err := db.Pool().Exec(t.Context(), "drop schema graphile_worker cascade"); err != nil {
		t.Fatal(err)
	}
	if code, text := web.status(t, http.MethodPut, "/orders/9", orderOf(ada, 1)); code != http.StatusInternalServerError || strings.Contains(text, "graphile") {
		t.Errorf("without tables of jobs: %d %s", code, text)
	}
	web.stop(t)
}

// Whichever message between the server and the database is lost: the answer is true, and to send
// the order again places it once.
func TestOrdersAreTrueAtEveryMessage(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	proxy := dbtest.NewProxy(t, db.URL)
	web := start(t, "web", nil, "DATABASE_URL="+proxy.URL).listening(t)
	order := func(id string) (code int, text string) {
		return web.status(t, http.MethodPut, "/orders/"+id, orderOf("ada@example.com", 1))
	}
	const notPlaced, unknown = "the order was not placed: send it again", "the order may have been placed: send it again"
	answers := map[string]int{}
	try := func(id string) (met byte) {
		code, text := order(id)
		met = proxy.Disarm()
		until(t, "no session is at work", func() bool {
			return rows(t, db.Pool(), `select pid::text from pg_stat_activity where datname = current_database()
				and backend_type = 'client backend' and pid <> pg_backend_pid() and state <> 'idle'`) == ""
		})
		there := rows(t, db.Pool(), placedOrders+" where id = $1", id) == id
		switch {
		case code == http.StatusCreated && there:
		case code == http.StatusServiceUnavailable && text == notPlaced && !there:
		case code == http.StatusServiceUnavailable && text == unknown:
		default:
			t.Errorf("%s: %d %s; the order is there: %v", id, code, text, there)
		}
		answers[text]++
		if code, text := order(id); code != http.StatusCreated && code != http.StatusOK {
			t.Errorf("%s: again: %d %s", id, code, text)
		}
		return met
	}
	for position, met := 1, byte('?'); met != 0; position++ {
		proxy.Arm(position, dbtest.Cut)
		met = try(fmt.Sprint("message-", position))
	}
	for i := 1; answers[unknown] == 0 && i <= 20; i++ { // the loop ends sooner if no connection is new
		proxy.ArmAfter("commit", dbtest.Cut)
		try(fmt.Sprint("last-", i))
	}
	if len(answers) != 3 {
		t.Errorf("not every answer was seen, but %v", answers)
	}
	if orders, jobs := rows(t, db.Pool(), placedOrders), rows(t, db.Pool(), jobs); jobs != orders {
		t.Errorf("the orders are %s\nwith jobs are    %s", orders, jobs)
	}
	web.stop(t)
}
