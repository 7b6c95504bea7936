import { dotChart, panelsOf } from '../chart.ts'
import { connect, type Rows } from '../drivers.ts'
import { inRounds, latencies, type Question, repeat } from '../harness.ts'
import { createLocks } from '../library.ts'
import { type EngineKind, freshName, kindOf } from '../servers.ts'
import { recordStatements } from '../statements.ts'

export const UNGUARDED = 'no guard'
export const ROUND_TRIP = 'select 1'

const UPDATE = 'update bench_account set balance = balance + 1 where id = 1'

type Sql = (text: string) => Promise<Rows>

export const guard: Question = {
  name: 'guard',
  title: 'A guard in a transaction',
  method:
    'begin, update of a row by its primary key, commit; the same with lease.guard after begin; and with the update inside lease.guarded, which is one statement on PostgreSQL. ' +
    'select 1 after begin is what any further statement costs. ' +
    'Beside them locks that end with the transaction, on a row of their own: pg_advisory_xact_lock, and SELECT FOR UPDATE, which both protect only against others who take them.',
  engines: { quick: ['postgres18'], full: ['postgres18', 'mysql', 'mariadb', 'sqlite'] },
  compared: ['p50 ms'],
  floors: [UNGUARDED],
  async measure(bench, engine) {
    const target = await bench.servers.target(engine)
    const { rounds, forMs } = bench.pick({ quick: { rounds: 8, forMs: 80 }, full: { rounds: 11, forMs: 200 } })
    const connection = await connect(target, 2)
    const locks = createLocks(connection.adapter)
    try {
      await connection.sql('create table bench_account (id integer primary key, balance integer not null)')
      await connection.sql('insert into bench_account values (1, 0)')
      await connection.sql(
        `insert into bench_locks values ('row', null, 1, ${kindOf(engine) === 'postgres' ? 'now()' : 0})`,
      )
      const lease = await locks.acquire(freshName())
      const bodies: Record<string, (tx: unknown, sql: Sql) => Promise<unknown>> = {
        [UNGUARDED]: (_tx, sql) => sql(UPDATE),
        async 'lease.guard'(tx, sql) {
          await lease.guard(tx)
          await sql(UPDATE)
        },
        async [ROUND_TRIP](_tx, sql) {
          await sql('select 1')
          await sql(UPDATE)
        },
        'lease.guarded': (tx) => lease.guarded(tx, { text: UPDATE, values: [] }),
        ...Object.fromEntries(
          Object.entries(TRANSACTION_LOCKS[kindOf(engine)]).map(([name, text]) => [
            name,
            async (_tx: unknown, sql: Sql) => {
              await sql(text)
              await sql(UPDATE)
            },
          ]),
        ),
      }
      const run = (name: string) => connection.transaction(bodies[name]!)
      const names = Object.keys(bodies)
      for (const name of names) await repeat(forMs, () => run(name))
      const measured = await inRounds(rounds, names, async (name) => {
        const stop = recordStatements()
        await run(name)
        const statements = stop().length
        // The handle of SQLite is asked without a network, and not watched.
        const roundTrips = kindOf(engine) === 'sqlite' ? {} : { 'round trips': statements }
        return { ...latencies(await repeat(forMs, () => run(name))), ...roundTrips }
      })
      bench.record(guard.name, engine, 'one transaction', measured)
    } finally {
      await locks.close()
      await connection.close()
    }
  },
  charts: (figures) => [
    dotChart('guard', 'A transaction with and without a guard: p50, ms (log scale)', panelsOf(figures, 'p50 ms')),
  ],
}

const TRANSACTION_LOCKS: Record<EngineKind, Record<string, string>> = {
  postgres: {
    pg_advisory_xact_lock: 'select pg_advisory_xact_lock(42)',
    'SELECT FOR UPDATE': `select token from bench_locks where name = 'row' for update`,
  },
  mysql: { 'SELECT FOR UPDATE': `select token from bench_locks where name = 'row' for update` },
  // A transaction that writes has the whole file locked.
  sqlite: {},
}
