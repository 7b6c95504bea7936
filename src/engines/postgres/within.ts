import { sql } from 'kysely'
import { toBoolean } from '../../adapters/shape.ts'
import type { AttemptInResult, Hold, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { advisoryKey, clockToken, type Fragments, free, unseen } from './fragments.ts'
import { array, toKind, toLabels } from './rows.ts'

/** Rows that one statement creates. Each takes an advisory lock for that long, for which all sessions share some memory. */
const CREATED_AT_ONCE = 100

export function withinStatements({ table, locks, named, leasesWait, mayCreate }: Fragments) {
  return {
    // The one statement that waits: migrations/postgres tells what it does.
    acquireIn: statement<{ name: string; owner: string; ttlMs: number | null; holder: string; waitMs: number }>(
      'postgres',
      (p) => sql`
        select outcome, token, owner, holders::text, queued, permits, idle_limit_ms, pg_backend_pid() as backend
        from ${named('within_1')}(${p.name}::text, ${p.owner}::text, ${p.ttlMs}::float8, ${p.holder}::text, ${p.waitMs}::float8)`,
    ),

    // Takes what can be had at once, of many: migrations/postgres tells what it does.
    acquireFreeIn: statement<{ names: string; holder: string }>(
      'postgres',
      (p) => sql`
        select array_to_json(tokens)::text as tokens, missing, pg_backend_pid() as backend,
               current_setting('transaction_isolation') in ('repeatable read', 'serializable') as reads_snapshot
        from ${named('within_free_1')}(${unseen(p.names)}::text[], ${p.holder}::text)`,
    ),

    // Makes rows that are missing, so that a transaction need not: others would have to wait for its end to learn of them.
    createFree: statement<{ names: string }>(
      'postgres',
      (p) => sql`
        insert into ${locks} (name, token, expires_at)
        select a.name, ${clockToken}, clock_timestamp()
        from unnest(${unseen(p.names)}::text[]) as a(name)
        where ${mayCreate(sql`a.name`)}
        on conflict (name) do nothing`,
    ),

    // Leases, transactions that hold an advisory lock or have changed the row, and whether they wait for another lock themselves.
    pollTransactions: statement<{ names: string }>(
      'postgres',
      (p) => sql`
        select a.i::int, t.pid is not null as taken,
               t.pid is not null and exists (select from pg_locks as w where w.pid = t.pid and not w.granted) as blocked,
               case when not ${free} then l.holder
                    else coalesce(case when l.used > 0 then ${named('sharers_1')}(l.name, null)->>0 end,
                                  case when ${leasesWait} then 'others, who wait for it' end) end as leased_to
        from unnest(${unseen(p.names)}::text[]) with ordinality as a(name, i)
        left join lateral (select l.*, l.xmax as changed_by from ${locks} as l where l.name = a.name limit 1) as l on true
        left join lateral (
          select pid from pg_locks
          where granted
            and (locktype = 'transactionid' and transactionid = l.changed_by
                 or locktype = 'advisory' and objsubid = 1
                    and database = (select oid from pg_database where datname = current_database())
                    and classid::bigint = (${advisoryKey(table, sql`a.name`)} >> 32) & 4294967295
                    and objid::bigint = ${advisoryKey(table, sql`a.name`)} & 4294967295)
          order by locktype desc
          limit 1
        ) as t on true`,
    ),

    hasWritten: statement<{ backend: number }>(
      'postgres',
      (p) => sql`
        select exists (select from pg_locks where pid = ${p.backend}::int and locktype = 'transactionid' and granted) as written`,
    ),
  }
}

export function within<Tx>(
  context: Context<Tx>,
): Pick<Required<Store<Tx>>, 'acquireIn' | 'acquireFreeIn' | 'createRows' | 'readsSnapshot' | 'pollTransactions'> {
  const { runner, own } = context
  const statements = compiled(context, withinStatements)
  /** The server's processes of transactions that have taken a lock, by their handles. A handle may serve one after the other. */
  const backends = new WeakMap<object, number>()

  async function isolationOf(tx: Tx): Promise<string> {
    // SHOW takes no snapshot.
    const query = { text: 'show transaction_isolation', values: [] }
    return runner.runIn(tx, query, ({ rows: [row] }) => String(Object.values(row ?? {})[0]))
  }

  async function createRows(names: readonly string[]): Promise<void> {
    for (let from = 0; from < names.length; from += CREATED_AT_ONCE) {
      const some = array(names.slice(from, from + CREATED_AT_ONCE))
      await own.outside(() => runner.keep(statements().createFree({ names: some })))
    }
  }

  return {
    async acquireFreeIn(tx, attempts) {
      const holds: Hold[] = []
      const [first] = attempts
      if (first === undefined) return holds
      const take = async () => {
        const names = attempts.slice(holds.length).map(({ name }) => name)
        const query = statements().acquireFreeIn({ names: array(names), holder: first.holder })
        return runner.runIn(tx, query, ({ rows: [row] }) => {
          backends.set(tx as object, Number(row?.backend))
          for (const token of JSON.parse(row?.tokens as string) as string[]) {
            const { name, owner } = attempts[holds.length]!
            holds.push({ name, owner, token: BigInt(token) })
          }
          // A snapshot does not see what is created now: there the transaction has to create it.
          return toBoolean(row?.missing) && !toBoolean(row?.reads_snapshot)
        })
      }
      if (await take()) {
        await createRows(attempts.slice(holds.length).map(({ name }) => name))
        await take()
      }
      return holds
    },

    createRows,

    async acquireIn(tx, { name, owner, ttlMs, holder }, waitMs) {
      const query = statements().acquireIn({ name, owner, ttlMs, holder, waitMs })
      return runner.runIn(tx, query, ({ rows: [row] }): AttemptInResult => {
        if (row?.outcome === 'granted') {
          backends.set(tx as object, Number(row.backend))
          return { granted: true, owner: row.owner as string, token: BigInt(row.token as string) }
        }
        const { holders, queued, permits, idle_limit_ms: idleLimitMs } = row!
        if (permits !== null) return { granted: false, holders: [], queued: false, kind: toKind(permits) }
        const told = { holders: toLabels(holders), queued: toBoolean(queued) }
        return { granted: false, ...told, idleLimitMs: Number(idleLimitMs ?? 0) }
      })
    },

    async readsSnapshot(tx) {
      if (!['repeatable read', 'serializable'].includes(await isolationOf(tx))) return false
      // Whoever has taken a lock already has its snapshot; and by waiting elsewhere it could hide a deadlock from the engine.
      const backend = backends.get(tx as object)
      if (backend === undefined) return true
      const { rows } = await runner.keep(statements().hasWritten({ backend }))
      return !toBoolean(rows[0]?.written)
    },

    async pollTransactions(names) {
      const { rows } = await runner.keep(statements().pollTransactions({ names: array(names) }))
      return rows.map(({ i, taken, blocked, leased_to: leasedTo }) => ({
        name: names[Number(i) - 1]!,
        taken: toBoolean(taken),
        blocked: toBoolean(blocked),
        leasedTo: leasedTo as string | null,
      }))
    },
  }
}
