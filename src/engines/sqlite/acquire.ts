import { type RawBuilder, sql } from 'kysely'
import * as lockRow from '../../protocol/lock-row.ts'
import type { Attempt, AttemptResult, Hold, Store } from '../../protocol/store.ts'
import { ofEachKind } from '../kinds.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { clockToken, engine, type Fragments, free, now, unshared } from './fragments.ts'
import { byName, isExclusive, namesOf, type Seen, toGranted, toSeen } from './rows.ts'
import { type Decide, stepStatements } from './steps.ts'

export interface OwnHold {
  readonly name: string
  readonly owner: string
  readonly token: bigint
  readonly ttl: number | null
}

export function acquireStatements({ locks, marks }: Fragments) {
  // WHO GETS THE LOCK: the last WHERE decides; and among those who wait, who comes first in the queue (see promote.ts).
  const take = (attempts: RawBuilder<string>, again: RawBuilder<unknown>) => sql`
        insert into ${locks} as l (name, owner, token, expires_at, holder)
        select asked.value ->> 'name',
               case when asked.value ->> 'ttlMs' is not null then asked.value ->> 'owner' end,
               ${clockToken},
               ${now} + coalesce(asked.value ->> 'ttlMs', 0),
               asked.value ->> 'holder'
        from json_each(${attempts}) as asked
        where true
        on conflict (name) do update
        set owner = excluded.owner,
            token = case when ${again} then l.token else max(l.token + 1, excluded.token) end,
            expires_at = excluded.expires_at,
            holder = excluded.holder,
            handed_to = null,
            takeover = case when ${again} then l.takeover else l.owner is not null or l.shares is not null end,
            shares = null
        where ${again} or (l.queue is null and ${free} and ${unshared} and l.permits is null)
        returning name, cast(token as text) as token, takeover,
                  exists (select 1 from ${marks} as m where m.kind = 'checkpoint' and m.name = ${locks}.name) as checkpointed`

  return {
    acquire: statement<{ attempts: string }>(engine, (p) => take(p.attempts, sql`l.owner = excluded.owner`)),

    // A hold that is to end with the transaction has no owner in the row; the one who had it before may be the same.
    acquireIn: statement<{ attempts: string; owner: string }>(engine, (p) =>
      take(p.attempts, sql`l.owner = ${p.owner}`),
    ),

    // A hold that this transaction has, if it has not been undone with a savepoint: it stays what it is, and with a ttl it becomes
    // a lease. Nobody else can have written the row meanwhile, nor could have been given that token.
    keepOwn: statement<OwnHold>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = case when ${p.ttl} is null then owner else ${p.owner} end,
            expires_at = case when ${p.ttl} is null then expires_at else ${now} + ${p.ttl} end,
            takeover = case when ${p.ttl} is null then takeover else 0 end
        where name = ${p.name} and token = cast(${p.token} as integer)
        returning 1 as kept`,
    ),
  }
}

/** Nobody was seen to hold it, and it was not to be had a moment ago. */
const NOT_NOW = { granted: false, holders: [], queued: false } as const

const decide: Decide<Attempt, AttemptResult> = (row, attempt, world) => {
  const step = lockRow.acquire(row ?? lockRow.newRow(attempt.name, attempt.permits), attempt, world)
  return step.reply.granted ? step : { ...step, row }
}

export function acquire<Tx>({
  adapter,
  runner,
  fragments,
  file,
  steps,
  assertOpen,
}: Context<Tx>): Pick<Store<Tx>, 'acquire' | 'acquireIn'> {
  const statements = acquireStatements(fragments)
  const { read } = stepStatements(fragments)

  /** What transactions have taken, as far as they can be told apart. */
  const holdsOf = new WeakMap<object, Map<string, Pick<Hold, 'owner' | 'token'>>>()

  async function acquireExclusive(attempts: readonly Attempt[]): Promise<AttemptResult[]> {
    const judge = (attempt: Attempt, { row, world }: Seen) => decide(row, attempt, world).reply
    const before = await steps.read(attempts)
    const open = attempts.filter((attempt) => judge(attempt, before.get(attempt.name)!).granted)
    const taken =
      open.length === 0
        ? new Map()
        : byName((await runner.run(statements.acquire({ attempts: JSON.stringify(open) }))).rows)
    const after = taken.size === open.length ? before : await steps.read(attempts)
    return attempts.map((attempt) => {
      const granted = toGranted(taken.get(attempt.name))
      if (granted !== undefined) return granted
      const refused = judge(attempt, after.get(attempt.name)!)
      return refused.granted ? NOT_NOW : refused
    })
  }

  return {
    async acquire(attempts) {
      await file.assertSame()
      return ofEachKind(attempts, isExclusive, acquireExclusive, (shared) => steps.step(shared, decide))
    },

    async acquireIn(tx, attempt) {
      const another = file.isAnother()
      if (another !== null) throw another
      const { name, ttlMs } = attempt
      const transaction = adapter.transactionOf?.(tx)
      const holds = (transaction && holdsOf.get(transaction)) ?? new Map<string, Pick<Hold, 'owner' | 'token'>>()
      const own = holds.get(name)
      if (own !== undefined) {
        const keep = statements.keepOwn({ name, ...own, ttl: ttlMs })
        if (await runner.runIn(tx, keep, ({ rows }) => rows.length === 1)) return { granted: true, ...own }
      }
      const attempts = JSON.stringify([attempt])
      const taken = await runner.runIn(tx, statements.acquireIn({ attempts, owner: attempt.owner }), ({ rows }) =>
        toGranted(rows[0]),
      )
      if (adapter.synchronous) assertOpen(tx)
      if (taken?.granted === true) {
        const hold = { owner: attempt.owner, token: taken.token }
        holds.set(name, hold)
        if (transaction !== undefined) holdsOf.set(transaction, holds)
        return { granted: true, ...hold }
      }
      return runner.runIn(tx, read({ names: namesOf([attempt]) }), ({ rows: [found] }) => {
        const { row, world } = toSeen(found!)
        if (row === undefined) return NOT_NOW
        const { reply } = lockRow.acquireIn(row, attempt, undefined, world)
        return reply.granted ? NOT_NOW : reply
      })
    },
  }
}
