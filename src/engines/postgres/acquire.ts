import { type RawBuilder, sql } from 'kysely'
import type { Result, Statement } from '../../adapters/adapter.ts'
import { toBoolean, toNumber } from '../../adapters/shape.ts'
import type { Attempt, AttemptResult, Store } from '../../protocol/store.ts'
import { ofEachKind } from '../kinds.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import {
  clockToken,
  durable,
  type Fragments,
  few,
  free,
  lookedUp,
  markLookedUp,
  unlessAll,
  unseen,
} from './fragments.ts'
import { array, indicesOf, inOrder, keysOf, type Row, toKind, toLabels, unanswered } from './rows.ts'

export interface AskedAttempts {
  readonly names: string
  readonly owners: string
  readonly ttls: string
  readonly holders: string
  readonly sessions: string
}

export interface AskedShares extends AskedAttempts {
  readonly weights: string
  readonly permits: string
}

/** Attempts of which each wants the same. */
export interface AlikeAttempts {
  readonly names: string
  readonly owner: string
  readonly count: number
  readonly ttlMs: number | null
  readonly holder: string
  readonly session: string | null
}

export function acquireStatements({ locks, marks, named, rowOf, mayCreate }: Fragments) {
  /**
   * WHO GETS THE LOCK, of many; of one, rowlock_acquire_1 says so: those rows that are free are locked, and looked at again
   * as locked. Nobody who waits is passed over, and an attempt that is repeated finds its own.
   */
  const obtained = (which: RawBuilder<unknown>, owner: RawBuilder<unknown>) => sql`
            select l.ctid from ${locks} as l
            where ${which} and (l.queue is null and ${free} or l.owner = ${owner}) and l.used = 0 and l.permits is null
            for update skip locked`

  /** Makes `l` a hold of `owner`'s. The clock is read once for all new tokens. */
  const take = (a: { [Key in 'owner' | 'ttl' | 'holder' | 'session']: RawBuilder<unknown> }) => sql`
        update ${locks} as l
        set owner = case when ${a.ttl} is not null then ${a.owner} end,
            token = case when l.owner = ${a.owner} then l.token else greatest(l.token + 1, (select ${clockToken})) end,
            expires_at = clock_timestamp() + coalesce(${a.ttl}, 0) * interval '1 ms',
            holder = ${a.holder},
            session = ${a.session},
            handed_to = null,
            takeover = case when l.owner = ${a.owner} then l.takeover else l.owner is not null end`

  /**
   * A row that has been released since the statement began is not found, so this is as it was after that. Whoever did not release
   * it may have left something just before it ran out: that is looked up.
   */
  const checkpointed = sql`exists (select from ${marks} as m where m.kind = 'checkpoint' and m.name = l.name and ${markLookedUp})`

  return {
    acquireOne: statement<Attempt>(
      'postgres',
      (p) => sql`
        select token, takeover, checkpointed, holders::text, queued, ours, permits
        from ${named('acquire_1')}(${p.name}::text, ${p.owner}::text, ${p.ttlMs}::float8, ${p.holder}::text, ${p.session}::bigint)`,
    ),

    // For many who find what they want free, and want the same: a third quicker than what follows, since nothing is listed.
    // It finds rows by their place, where they are not any more if they have changed since the statement began: that is for
    // the statement after this one.
    acquireAlike: statement<AlikeAttempts>(
      'postgres',
      (p) => sql`
        with taken as (
          ${take({ owner: sql`${p.owner}::text`, ttl: sql`${p.ttlMs}::float8`, holder: sql`${p.holder}::text`, session: sql`${p.session}::bigint` })}
          where l.ctid = any(array(${obtained(sql`l.name = any(${unseen(p.names)}::text[]) and ${lookedUp}`, sql`${p.owner}::text`)})) and ${lookedUp}
          returning l.name, l.token, l.takeover, case when not l.takeover then ${checkpointed} end as checkpointed
        )
        select ${unlessAll(p.count)}, token::text, takeover, checkpointed, ${durable}
        from taken group by token, takeover, checkpointed`,
    ),

    // For those whom that leaves without an answer: creates the row of a new name, or tells who has the lock.
    acquireMany: statement<AskedAttempts>(
      'postgres',
      (p) => sql`
        with asked as materialized (
          select name, owner, i, ttl, holder, session
          from unnest(${unseen(p.names)}::text[], ${unseen(p.owners)}::text[], ${unseen(p.ttls)}::float8[],
                      ${unseen(p.holders)}::text[], ${unseen(p.sessions)}::bigint[]) with ordinality as a(name, owner, ttl, holder, session, i)
        ), free as (
          select a.*
          from asked as a, lateral (${obtained(sql`l.name = a.name`, sql`a.owner`)}) as l
          ${few}
        ), taken as (
          ${take({ owner: sql`f.owner`, ttl: sql`f.ttl`, holder: sql`f.holder`, session: sql`f.session` })}
          from free as f
          where l.name = f.name
          returning f.i, l.token, l.takeover
        ), missed as materialized (
          select * from asked as a where not exists (select from taken as t where t.i = a.i)
        ), created as (
          insert into ${locks} (name, owner, token, expires_at, holder, session)
          select m.name, case when m.ttl is not null then m.owner end, ${clockToken},
                 clock_timestamp() + coalesce(m.ttl, 0) * interval '1 ms', m.holder, m.session
          from missed as m
          where ${mayCreate(sql`m.name`)}
          on conflict (name) do nothing
          returning name, token
        )
        select i::int, token::text, takeover, null as holders, false as queued, false as ours, null::int as permits, false as shared,
               (select ${durable})
        from taken
        union all
        select m.i::int, c.token::text, false, null, false, false, null, false, (select ${durable})
        from created as c join missed as m on m.name = c.name
        union all
        select m.i::int, null, false, case when not ${free} then json_build_array(l.holder)::text end,
               l.queue is not null and ${free}, l.owner is not distinct from m.owner, l.permits, l.used > 0, null
        from missed as m, ${rowOf(sql`m`)}`,
    ),

    // Of those that others share: what has ended comes off before.
    acquireEach: statement<AskedAttempts>(
      'postgres',
      (p) => sql`
        select a.i::int, r.token, r.takeover, r.checkpointed, r.holders::text, r.queued, r.ours, r.permits
        from unnest(${unseen(p.names)}::text[], ${unseen(p.owners)}::text[], ${unseen(p.ttls)}::float8[],
                    ${unseen(p.holders)}::text[], ${unseen(p.sessions)}::bigint[]) with ordinality as a(name, owner, ttl, holder, session, i),
             lateral ${named('acquire_1')}(a.name, a.owner, a.ttl, a.holder, a.session) as r`,
    ),

    acquireShared: statement<AskedShares>(
      'postgres',
      (p) => sql`
        select a.i::int, r.token, r.slot, r.takeover, r.holders::text, r.queued, r.ours, r.unfit, r.permits
        from unnest(${unseen(p.names)}::text[], ${unseen(p.owners)}::text[], ${unseen(p.weights)}::int[], ${unseen(p.permits)}::int[],
                    ${unseen(p.ttls)}::float8[], ${unseen(p.holders)}::text[], ${unseen(p.sessions)}::bigint[])
               with ordinality as a(name, owner, weight, permits, ttl, holder, session, i),
             lateral ${named('share_1')}(a.name, a.owner, a.weight, a.permits, a.ttl, a.holder, a.session) as r`,
    ),
  }
}

export function acquire(context: Context<never>): Store<never>['acquire'] {
  const { runner } = context
  const onPool = acquireOver(context, (query) => runner.run(query))
  const onOwn = acquireOver(context, (query) => runner.keep(query))
  return (attempts, beside) => (beside ? onOwn(attempts) : onPool(attempts))
}

function acquireOver(
  context: Context<never>,
  send: (query: Statement) => Promise<Result>,
): (attempts: readonly Attempt[]) => Promise<AttemptResult[]> {
  const statements = compiled(context, acquireStatements)

  async function acquireMany(attempts: readonly Attempt[]): Promise<AttemptResult[]> {
    const rows = inOrder((await send(statements().acquireMany(toArrays(attempts)))).rows, attempts.length)
    const shared = [...rows.keys()].filter((index) => toBoolean(rows[index]?.shared ?? null))
    if (shared.length > 0) {
      const some = shared.map((index) => attempts[index]!)
      const again = inOrder((await send(statements().acquireEach(toArrays(some)))).rows, some.length)
      for (const [at, index] of shared.entries()) rows[index] = again[at]
    }
    return rows.map(toAttemptResult)
  }

  async function acquireShared(attempts: readonly Attempt[]): Promise<AttemptResult[]> {
    const weights = array(attempts.map(({ weight }) => weight))
    const permits = array(attempts.map(({ permits }) => permits))
    const asked = { ...toArrays(attempts), weights, permits }
    const { rows } = await send(statements().acquireShared(asked))
    return inOrder(rows, attempts.length).map((row) => toSharedResult(row!))
  }

  async function acquireAlike(attempts: readonly Attempt[]): Promise<AttemptResult[]> {
    const [{ owner, ttlMs, holder, session }] = attempts as [Attempt]
    const names = array(attempts.map(({ name }) => name))
    const { rows } = await send(
      statements().acquireAlike({ names, count: attempts.length, owner, ttlMs, holder, session }),
    )
    const results = new Array<AttemptResult | undefined>(attempts.length).fill(undefined)
    for (const row of rows) {
      const result = toAttemptResult(row)
      for (const index of indicesOf(attempts, row.names)) results[index] = result
    }
    const missed = unanswered(results)
    const answers = missed.length === 0 ? [] : await acquireMany(missed.map((index) => attempts[index]!))
    for (const [at, index] of missed.entries()) results[index] = answers[at]
    return results as AttemptResult[]
  }

  async function acquireExclusive(attempts: readonly Attempt[]): Promise<AttemptResult[]> {
    const [first] = attempts
    if (first === undefined) return []
    if (attempts.length === 1) return [toAttemptResult((await send(statements().acquireOne(first))).rows[0])]
    return attempts.every((one) => isAlike(one, first)) ? acquireAlike(attempts) : acquireMany(attempts)
  }

  return (attempts) => ofEachKind(attempts, isExclusive, acquireExclusive, acquireShared)
}

function isExclusive({ weight, permits }: Attempt): boolean {
  return weight === null && permits === null
}

function toArrays(attempts: readonly Attempt[]): AskedAttempts {
  return {
    ...keysOf(attempts),
    ttls: array(attempts.map(({ ttlMs }) => ttlMs)),
    holders: array(attempts.map(({ holder }) => holder)),
    sessions: array(attempts.map(({ session }) => session)),
  }
}

function isAlike(one: Attempt, other: Attempt): boolean {
  return (
    one.owner === other.owner &&
    one.ttlMs === other.ttlMs &&
    one.holder === other.holder &&
    one.session === other.session
  )
}

function toAttemptResult(row: Row | undefined): AttemptResult {
  if (row === undefined) return { granted: false, holders: [], queued: false }
  if (row.token !== null) {
    const { token, takeover, checkpointed } = row
    const hold = { granted: true, token: BigInt(token as string), takeover: toBoolean(takeover) } as const
    return checkpointed == null ? hold : { ...hold, checkpointed: toBoolean(checkpointed) }
  }
  // Nobody is in the way of what cannot be had.
  if (row.permits !== null) return { granted: false, holders: [], queued: false, kind: toKind(row.permits) }
  return toRefusal(row)
}

function toSharedResult(row: Row): AttemptResult {
  if (row.token !== null) {
    const { token, slot, takeover } = row
    return { granted: true, token: BigInt(token as string), takeover: toBoolean(takeover), slot: toNumber(slot) }
  }
  return { ...toRefusal(row), ...(toBoolean(row.unfit) && { kind: toKind(row.permits) }) }
}

function toRefusal({ holders, queued, ours }: Row): AttemptResult & { readonly granted: false } {
  const told = { granted: false, holders: toLabels(holders), queued: toBoolean(queued) } as const
  return toBoolean(ours) ? { ...told, ours: true } : told
}
