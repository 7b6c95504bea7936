import { sql } from 'kysely'
import { toBoolean } from '../../adapters/shape.ts'
import type { Hold, Renewal, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { durable, type Fragments, few, leftOf, unseen } from './fragments.ts'
import { array, arraysOf, inOrder, type Row } from './rows.ts'

/** Rows named in one statement. */
const BATCH = 1000

export function renewStatements({ locks }: Fragments) {
  return {
    // A renewal never shortens: a late one is harmless.
    renew: statement<{ names: string; owners: string; tokens: string; ttls: string }>(
      'postgres',
      (p) => sql`
        with asked as materialized (
          select * from unnest(${unseen(p.names)}::text[], ${unseen(p.owners)}::text[], ${unseen(p.tokens)}::bigint[], ${unseen(p.ttls)}::float8[])
                        with ordinality as a(name, owner, token, ttl, i)
          order by name collate "C"
        ), mine as (
          select l.ctid as place, a.ttl, a.i from asked as a, lateral (
            select l.ctid from ${locks} as l
            where (l.name, l.owner, l.token) = (a.name, a.owner, a.token) and l.expires_at > clock_timestamp()
            for no key update skip locked
          ) as l
          ${few}
        ), renewed as (
          update ${locks} as l
          set expires_at = greatest(l.expires_at, clock_timestamp() + mine.ttl * interval '1 ms'), handed_to = null
          from mine
          where l.ctid = mine.place
          returning l.name, l.expires_at
        )
        select a.i::int,
               case when r.name is not null then 'renewed' when l.name is not null then 'held' else 'lost' end as outcome,
               r.name is null and a.i in (select i from mine) as changed,
               ${leftOf(sql`coalesce(r.expires_at, l.expires_at)`)} as remaining,
               (select ${durable})
        from asked as a
        left join renewed as r on r.name = a.name
        left join lateral (
          select l.name, l.expires_at from ${locks} as l
          where r.name is null and (l.name, l.owner, l.token) = (a.name, a.owner, a.token) and l.expires_at > clock_timestamp()
          limit 1
        ) as l on true`,
    ),
  }
}

type Asked = Hold & { readonly ttlMs: number }

export function renew(context: Context<never>): Store<never>['renew'] {
  const { runner } = context
  const statements = compiled(context, renewStatements)

  async function renewOnce(holds: readonly Asked[]): Promise<Row[]> {
    const ttls = array(holds.map(({ ttlMs }) => ttlMs))
    const { rows } = await runner.keep(statements().renew({ ...arraysOf(holds), ttls }))
    return inOrder(rows, holds.length) as Row[]
  }

  /** Rows that were changed since the statement began, and that nobody has locked: that is over a moment later. */
  async function renewTwice(holds: readonly Asked[]): Promise<Row[]> {
    const rows = await renewOnce(holds)
    const changed = [...rows.keys()].filter((index) => toBoolean(rows[index]!.changed))
    const again = changed.length === 0 ? [] : await renewOnce(changed.map((index) => holds[index]!))
    for (const [at, index] of changed.entries()) rows[index] = again[at]!
    return rows
  }

  return async (holds) => {
    const renewals: Renewal[] = []
    for (let from = 0; from < holds.length; from += BATCH) {
      for (const { outcome, remaining } of await renewTwice(holds.slice(from, from + BATCH))) {
        renewals.push({ outcome: outcome as Renewal['outcome'], remainingMs: Number(remaining ?? 0) })
      }
    }
    return renewals
  }
}
