import { type RawBuilder, sql } from 'kysely'
import { toBoolean } from '../../adapters/shape.ts'
import { type Hold, isShared, type Renewal, type Store } from '../../protocol/store.ts'
import { ofEachKind } from '../kinds.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { durable, type Fragments, few, type HoldArrays, leftOf, type SharedArrays, unseen } from './fragments.ts'
import { areShared, array, arraysOf, inOrder, type Row, sharedArraysOf } from './rows.ts'

/** Rows named in one statement. */
const BATCH = 1000

export function renewStatements({ locks, slots }: Fragments) {
  /** A renewal never shortens: a late one is harmless. */
  const renewal = (p: { asked: RawBuilder<unknown>; table: RawBuilder<unknown>; isIt: RawBuilder<unknown> }) => sql`
        with asked as materialized (
          select * from ${p.asked}
          order by name collate "C"
        ), mine as (
          select l.ctid as place, a.ttl, a.i from asked as a, lateral (
            select l.ctid from ${p.table} as l
            where ${p.isIt} and l.expires_at > clock_timestamp()
            for no key update skip locked
          ) as l
          ${few}
        ), renewed as (
          update ${p.table} as l
          set expires_at = greatest(l.expires_at, clock_timestamp() + mine.ttl * interval '1 ms'), handed_to = null
          from mine
          where l.ctid = mine.place
          returning mine.i, l.expires_at
        )
        select a.i::int,
               case when r.i is not null then 'renewed' when l.name is not null then 'held' else 'lost' end as outcome,
               r.i is null and a.i in (select i from mine) as changed,
               ${leftOf(sql`coalesce(r.expires_at, l.expires_at)`)} as remaining,
               (select ${durable})
        from asked as a
        left join renewed as r on r.i = a.i
        left join lateral (
          select l.name, l.expires_at from ${p.table} as l
          where r.i is null and ${p.isIt} and l.expires_at > clock_timestamp()
          limit 1
        ) as l on true`

  return {
    renew: statement<HoldArrays & { ttls: string }>('postgres', (p) =>
      renewal({
        asked: sql`unnest(${unseen(p.names)}::text[], ${unseen(p.owners)}::text[], ${unseen(p.tokens)}::bigint[], ${unseen(p.ttls)}::float8[])
                        with ordinality as a(name, owner, token, ttl, i)`,
        table: locks,
        isIt: sql`(l.name, l.owner, l.token) = (a.name, a.owner, a.token)`,
      }),
    ),

    renewShared: statement<SharedArrays & { ttls: string }>('postgres', (p) =>
      renewal({
        asked: sql`unnest(${unseen(p.names)}::text[], ${unseen(p.slots)}::int[], ${unseen(p.owners)}::text[], ${unseen(p.tokens)}::bigint[], ${unseen(p.ttls)}::float8[])
                        with ordinality as a(name, slot, owner, token, ttl, i)`,
        table: slots,
        isIt: sql`(l.name, l.slot, l.owner, l.token) = (a.name, a.slot, a.owner, a.token)`,
      }),
    ),
  }
}

type Asked = Hold & { readonly ttlMs: number }

export function renew(context: Context<never>): Store<never>['renew'] {
  const { runner } = context
  const statements = compiled(context, renewStatements)

  async function renewOnce(holds: readonly Asked[]): Promise<Row[]> {
    const ttls = array(holds.map(({ ttlMs }) => ttlMs))
    const query = areShared(holds)
      ? statements().renewShared({ ...sharedArraysOf(holds), ttls })
      : statements().renew({ ...arraysOf(holds), ttls })
    const { rows } = await runner.keep(query)
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

  async function renewAll(holds: readonly Asked[]): Promise<Renewal[]> {
    const renewals: Renewal[] = []
    for (let from = 0; from < holds.length; from += BATCH) {
      for (const { outcome, remaining } of await renewTwice(holds.slice(from, from + BATCH))) {
        renewals.push({ outcome: outcome as Renewal['outcome'], remainingMs: Number(remaining ?? 0) })
      }
    }
    return renewals
  }

  return (holds) => ofEachKind(holds, isShared, renewAll, renewAll)
}
