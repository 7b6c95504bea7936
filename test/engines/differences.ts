import { wentTo } from '../../src/protocol/ids.ts'
import type { LockRow, RowHolder, World } from '../../src/protocol/lock-row.ts'
import type { AttemptResult, Grant, ReleaseResult } from '../../src/protocol/store.ts'
import type { SqlEngine } from './lock-table.ts'
import { isChanging, type Outcome, type RowLock, type Verb, type Verbs } from './model.ts'

/** The statement had no effect, and says that it may be repeated. */
export const CONFLICT = 'conflict'

export type Expected<V extends Verb> =
  | Outcome<V>
  | { readonly reply: typeof CONFLICT; readonly row: LockRow | undefined }

/** One lock of a call, and what is known of it. */
export interface Situation<V extends Verb> {
  readonly asked: Verbs[V]['asked']
  /** The row as the call found it, by the model; in a transaction, as that sees it. */
  readonly before: LockRow | undefined
  /** The committed row after the call, as it is in the table; undefined also where it cannot be read. */
  readonly found: LockRow | undefined
  /** The lock was taken in a transaction last, and its holder has not renewed it since. */
  readonly marked: boolean
  /** What an open transaction of another session has of the row. On SQLite, of the file. */
  readonly lock: RowLock | undefined
  /** The transaction of the call has taken the lock already. */
  readonly has: boolean
  readonly world: World
  /** All locks of the call, and what lock-row.ts makes of each. */
  readonly call: readonly (Pick<Situation<V>, 'before' | 'marked' | 'lock'> & { readonly outcome: Outcome<V> })[]
  /** What it makes of another row. */
  decide(row: LockRow): Outcome<V>
  /** What it makes of the row for a transaction that has not taken the lock yet. */
  decideAnew(): Outcome<V>
}

interface Difference<V extends Verb> {
  readonly engine: SqlEngine
  readonly when: string
  readonly because: string
  /** What the engine does instead; undefined in all other cases. */
  instead(expected: Outcome<V>, situation: Situation<V>): Expected<V> | undefined
}

type Differences = { readonly [V in Verb]?: readonly Difference<V>[] }

const ONE_WRITER = 'a file has one writer; the statement had no effect, and is repeated'
const NEW_VERSION = 'nobody else sees the new version of the row; only a guard, which makes none, lets others change it'
const ROW_LOCK = 'on InnoDB whatever locks a row keeps everybody from changing it'
const DEAD_LEAVE = 'where the dead have to be passed over, the queue is written anew, and all of them leave it'
const NO_RETURNING = 'no statement answers with what it wrote'

const fileIsLocked = {
  engine: 'sqlite',
  when: 'a transaction is open',
  because: ONE_WRITER,
  instead: <V extends Verb>(_: Outcome<V>, { lock, before }: Situation<V>): Expected<V> | undefined =>
    lock && { reply: CONFLICT, row: before },
} as const

/** Where an engine differs from lock-row.ts, and may. Each entry is needed: the test fails if none of its runs meets it. */
const DIFFERENCES: Differences = {
  acquire: [
    {
      engine: 'sqlite',
      when: 'a transaction is open, and not all of the locks are seen to be held by others',
      because: ONE_WRITER,
      instead: (_, { lock, before, call }) =>
        lock && !call.every(({ outcome }) => isHeldByOthers(outcome.reply))
          ? { reply: CONFLICT, row: before }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'its own hold is locked, and no more than the ttl is left',
      because: 'whoever is to ask again need not know who has the lock',
      instead: ({ reply, row }, { asked, before, world }) =>
        !reply.granted && reply.ours && leftOf(before, world) <= asked.ttlMs!
          ? { reply: { ...reply, holders: [], queued: false }, row }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'its own hold is locked, and more than the ttl is left',
      because: `${NO_RETURNING}, and what is left tells that it was granted`,
      instead: ({ reply, row }, { asked, before, world }) => {
        if (reply.granted || !reply.ours || leftOf(before, world) <= asked.ttlMs!) return undefined
        const { token, takeover } = before!.holders[0]!
        return { reply: { granted: true, token, takeover }, row }
      },
    },
  ],

  enqueue: [
    fileIsLocked,
    {
      engine: 'postgres',
      when: 'a transaction has changed the row',
      because: NEW_VERSION,
      instead: (_, { before, lock }) =>
        before && isChanging(lock) ? { reply: { outcome: 'locked' }, row: before } : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked, and there is room in the queue',
      because: ROW_LOCK,
      instead: ({ reply }, { before, lock }) =>
        lock && reply.outcome === 'queued' ? { reply: { outcome: 'locked' }, row: before } : undefined,
    },
  ],

  withdraw: [
    fileIsLocked,
    {
      engine: 'postgres',
      when: 'a transaction has changed the row, and somebody waits',
      because: `${NEW_VERSION}; who waits is not looked at`,
      instead: ({ reply }, { before, lock }) =>
        isChanging(lock) && before && before.queue.length > 0
          ? { reply: { ...reply, withdrawn: false }, row: before }
          : undefined,
    },
    {
      engine: 'postgres',
      when: 'the ticket was handed the lock for a session that is gone',
      because: 'whoever is told passes it on, and sessions are not asked about',
      instead: ({ reply, row }, situation) =>
        isHeldBy(situation) && isUnconfirmed(situation) && isSessionGone(situation.before, situation.world)
          ? { reply: { ...reply, grants: [grantOf(situation)] }, row }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked, and the ticket is in the queue',
      because: ROW_LOCK,
      instead: ({ reply }, { asked, before, lock }) =>
        lock && before?.queue.some(({ ticket }) => ticket === asked.ticket)
          ? { reply: { ...reply, withdrawn: false }, row: before }
          : undefined,
    },
  ],

  promote: [
    fileIsLocked,
    {
      engine: 'mysql',
      when: 'there are dead tickets behind the one that is next, and it is not handed over at once',
      because: DEAD_LEAVE,
      instead: ({ reply, row }, { before, marked, world }) =>
        reply.outcome === 'handed over' && !isHandedOverAtOnce({ before, marked }, world) && hasDead(row, world)
          ? { reply, row: withoutDead(row!, world) }
          : undefined,
    },
  ],

  release: [
    fileIsLocked,
    {
      engine: 'postgres',
      when: 'a transaction has changed the row',
      because: NEW_VERSION,
      instead: ({ reply }, { before, lock }) =>
        isChanging(lock) && reply.outcome === 'released' ? { reply: LOCKED, row: before } : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked',
      because: ROW_LOCK,
      instead: ({ reply }, { before, lock }) =>
        lock && reply.outcome === 'released' ? { reply: LOCKED, row: before } : undefined,
    },
    {
      engine: 'mysql',
      when: 'there are dead tickets before and behind the one that is next',
      because: DEAD_LEAVE,
      instead: ({ reply, row }, { before, world }) =>
        reply.handedOver && !isFirstAlive(before, world) && hasDead(row, world)
          ? { reply, row: withoutDead(row!, world) }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'one lock is handed over to the first in its queue',
      because: `${NO_RETURNING}, and to look would cost a round trip; it has looked if others in the queue were dead`,
      instead: ({ reply, row }, { before, world, call }) =>
        reply.handedOver && call.length === 1 && isFirstAlive(before, world)
          ? { reply: { ...reply, grants: [] }, row }
          : undefined,
    },
  ],

  renew: [
    fileIsLocked,
    {
      engine: 'postgres',
      when: 'a transaction has changed the row',
      because: NEW_VERSION,
      instead: ({ reply }, { before, lock, world }) =>
        isChanging(lock) && reply.outcome === 'renewed'
          ? { reply: { outcome: 'held', remainingMs: leftOf(before, world) }, row: before }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked, and no more than the ttl is left',
      because: ROW_LOCK,
      instead: ({ reply }, { asked, before, lock, world }) =>
        lock && reply.outcome === 'renewed' && leftOf(before, world) <= asked.ttlMs
          ? { reply: { outcome: 'held', remainingMs: leftOf(before, world) }, row: before }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked, and more than the ttl is left',
      because: `${NO_RETURNING}, and what is left tells that it was renewed`,
      instead: ({ reply }, { asked, before, lock, world }) =>
        lock && reply.outcome === 'renewed' && leftOf(before, world) > asked.ttlMs ? { reply, row: before } : undefined,
    },
    {
      engine: 'mysql',
      when: 'several are renewed, and all of them',
      because: `${NO_RETURNING}, and the ttl is left at least`,
      instead: ({ reply, row }, { asked, call }) =>
        call.length > 1 && call.every(({ outcome, lock }) => !lock && outcome.reply.outcome === 'renewed')
          ? { reply: { ...reply, remainingMs: asked.ttlMs }, row }
          : undefined,
    },
  ],

  forceRelease: [
    {
      engine: 'sqlite',
      when: 'a transaction is open',
      because: 'a file has one writer, and whether anybody has the lock is not looked at',
      instead: (_, { lock, before }) => lock && { reply: 'locked', row: before },
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked of a lease whose session is gone',
      because: 'whether anybody has the lock is looked at as inspect does, and nobody has',
      instead: ({ reply, row }, { before, world }) =>
        reply === 'locked' && isSessionGone(before, world) ? { reply: 'free', row } : undefined,
    },
  ],

  purge: [
    fileIsLocked,
    {
      engine: 'postgres',
      when: 'all who wait have lost their sessions before their time is over',
      because: 'a row that stays for longer does no harm, and sessions are not asked about',
      instead: ({ reply }, { before, world }) =>
        reply && before?.queue.some(({ until }) => until > world.now) ? { reply: false, row: before } : undefined,
    },
  ],

  acquireIn: [
    {
      engine: 'mysql',
      when: 'there is no row',
      because: 'one that the transaction made would keep everybody else from the name, so it is made before, for good',
      instead: (_, { before, found, decide }) =>
        before === undefined && found !== undefined ? { ...decide(found), created: found } : undefined,
    },
    {
      engine: 'sqlite',
      when: 'the transaction has the lock already, until it ends',
      because:
        'a handle of better-sqlite3 serves all transactions, and nothing in the row tells them apart: it gets a higher token',
      instead: (_, { has, before, decideAnew }) => (has && before?.holders.length === 0 ? decideAnew() : undefined),
    },
    {
      engine: 'sqlite',
      when: 'the transaction has taken a lease of the lock already',
      because: 'the same; it is in its own way, as an earlier transaction on that handle would be',
      instead: (_, { has, before, decideAnew }) => (has && before?.holders.length === 1 ? decideAnew() : undefined),
    },
    {
      engine: 'postgres',
      when: 'the transaction has the lock already, until it ends',
      because: 'the row of such a hold has no owner, and nobody asks for it',
      instead: (outcome, { asked, before, has }) => {
        const { reply, row } = outcome
        if (!has || before?.holders.length !== 0 || !reply.granted) return undefined
        const { owner } = asked
        return {
          ...outcome,
          reply: { ...reply, owner },
          ...(row && { row: row.holders.length === 0 ? row : withHolder(row, { owner }) }),
        }
      },
    },
    {
      engine: 'postgres',
      when: 'another transaction has taken the lock',
      because: 'transactions wait for each other before they look at the row',
      instead: (_, { lock, before }) =>
        lock === 'taken' ? { reply: { granted: false, holders: [], queued: false }, row: before } : undefined,
    },
    {
      engine: 'mysql',
      when: 'the lock is taken until the transaction ends',
      because: 'who waits for the row compares its expiry with a clock that was read before, so it stays where it was',
      instead: (outcome, { asked, before }) =>
        asked.ttlMs === null && outcome.lock && outcome.row && before
          ? { ...outcome, row: { ...outcome.row, idleSince: Math.min(idleSince(before), outcome.row.idleSince) } }
          : undefined,
    },
    ...(['postgres', 'mysql'] as const).map((engine) => ({
      engine,
      when: 'a lease is taken over',
      because: 'transactions are not told of takeovers',
      instead: (outcome: Outcome<'acquireIn'>) =>
        outcome.lock && outcome.row?.holders[0]?.takeover
          ? { ...outcome, row: withHolder(outcome.row, { takeover: false }) }
          : undefined,
    })),
  ],

  guard: [
    {
      engine: 'postgres',
      when: 'the lease has run out, and nobody has taken the lock over',
      because: 'a snapshot may be older than the last renewal, and with the row locked nobody gets the lock',
      instead: ({ reply, row }, { asked, before }) =>
        reply === 'lost' && before?.holders.some(({ owner, token }) => owner === asked.owner && token === asked.token)
          ? { reply: 'expired', row, lock: 'guarded' }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'the lease stands',
      because: 'only a write takes part in the certification of a cluster: the guard renews the lease with the commit',
      instead: ({ reply, row }, { asked, world }) => {
        if (reply !== 'stands' || row === undefined) return undefined
        const expiresAt = Math.max(row.holders[0]!.expiresAt, world.now + asked.ttlMs)
        return { reply, lock: 'changed', row: withHolder(row, { expiresAt, handedTo: null }) }
      },
    },
    {
      engine: 'mysql',
      when: 'the lease is lost',
      because: 'at REPEATABLE READ InnoDB keeps the lock of a row that it has looked at',
      instead: ({ reply, row }) => (reply === 'lost' && row ? { reply, lock: 'changed', row } : undefined),
    },
  ],

  releaseIn: [
    {
      engine: 'mysql',
      when: 'the lease is lost',
      because: 'at REPEATABLE READ InnoDB keeps the lock of a row that it has looked at',
      instead: ({ reply, row }) => (reply === 'lost' && row ? { reply, lock: 'changed', row } : undefined),
    },
  ],
}

/** Where an engine differs, and should not. An entry goes when its engine, or lock-row.ts, has been mended. */
const FAULTS: Differences = {
  promote: [
    {
      engine: 'mysql',
      when: 'among those of the call that are handed over is one that was before, and is not confirmed',
      because: `${NO_RETURNING}; a hand-off that is told twice is taken once`,
      instead: ({ reply, row }, situation) => {
        const { before, marked, world, call } = situation
        const wasHandedOver = !marked && before?.holders[0]?.handedTo != null
        const anyChanged = call.some(
          (each) => each.outcome.reply.outcome === 'handed over' && isHandedOverAtOnce(each, world),
        )
        return reply.outcome === 'held' && wasHandedOver && anyChanged
          ? { reply: { outcome: 'handed over', grants: [grantOf(situation)] }, row }
          : undefined
      },
    },
  ],

  acquireIn: [
    {
      engine: 'mysql',
      when: 'the transaction has released the lease itself',
      because: 'the lock is free to it, unless others wait; it is looked at from outside, where the lease still is',
      instead: (expected, { asked, before, found, decide }) => {
        const holder = found?.holders[0]
        if (before?.holders.length !== 0 || found === undefined || holder === undefined) return undefined
        if (holder.owner === asked.owner) {
          if (expected.reply.granted) return undefined
          const { row, ...taken } = decide({ ...before, queue: [] })
          const idleSince = Math.min(before.idleSince, row!.idleSince)
          return { ...taken, row: { ...row!, queue: before.queue, ...(asked.ttlMs === null && { idleSince }) } }
        }
        const { reply } = decide(found)
        return !reply.granted && reply.holders.length > 0 ? { reply, row: before } : undefined
      },
    },
  ],
}

const LOCKED: ReleaseResult = { outcome: 'locked', handedOver: false, grants: [], promoteLater: false }

function isHeldByOthers(reply: AttemptResult): boolean {
  return !reply.granted && reply.holders.length > 0 && !reply.ours
}

function leftOf(row: LockRow | undefined, { now }: World): number {
  return (row?.holders[0]?.expiresAt ?? 0) - now
}

function isSessionGone(row: LockRow | undefined, world: World): boolean {
  const session = row?.holders[0]?.session ?? null
  return session !== null && world.sessionEnded(session)
}

/** As the column of the table has it that says both. */
function idleSince({ holders: [holder], idleSince }: LockRow): number {
  return holder?.expiresAt ?? idleSince
}

function isFirstAlive(row: LockRow | undefined, { now }: World): boolean {
  return row?.queue[0] !== undefined && row.queue[0].until > now
}

/** On MySQL, by one statement: to the first in the queue, after a lease that was released, or ran out and had been confirmed. */
function isHandedOverAtOnce({ before, marked }: Pick<Situation<Verb>, 'before' | 'marked'>, world: World): boolean {
  const isMissed = before?.holders.some(({ handedTo }) => marked || handedTo !== null)
  return !isMissed && leftOf(before, world) <= 0 && isFirstAlive(before, world)
}

function hasDead(row: LockRow | undefined, { now }: World): boolean {
  return row?.queue.some(({ until }) => until <= now) ?? false
}

function withoutDead(row: LockRow, { now }: World): LockRow {
  return { ...row, queue: row.queue.filter(({ until }) => until > now) }
}

function withHolder(row: LockRow, change: Partial<RowHolder>): LockRow {
  return { ...row, holders: row.holders.map((holder) => ({ ...holder, ...change })) }
}

/** The lock is held by what the ticket was handed, confirmed or not. */
function isHeldBy({ asked, before, world }: Situation<'withdraw'>): boolean {
  return leftOf(before, world) > 0 && wentTo(before!.holders[0]!.owner, asked.ticket)
}

function isUnconfirmed({ before }: Situation<'withdraw'>): boolean {
  return before?.holders[0]?.handedTo != null
}

/** As the engine reads it from the row, which may have the mark of a transaction, or nothing, for a process. */
function grantOf({ before, marked, world }: Pick<Situation<Verb>, 'before' | 'marked' | 'world'>): Grant {
  const { owner, token, takeover, handedTo } = before!.holders[0]!
  const process = marked ? MARK : (handedTo as string)
  return { name: before!.name, owner, token, takeover, process, remainingMs: leftOf(before, world) }
}

/** Stands for the mark of any transaction. */
export const MARK = 'a transaction'

/** What is to be expected of the engine. Adds what has made a difference to `met`. */
export function expectedOf<V extends Verb>(
  engine: SqlEngine,
  verb: V,
  outcome: Outcome<V>,
  situation: Situation<V>,
  met: Set<string>,
): Expected<V> {
  let expected = outcome
  for (const difference of entriesOf(verb)) {
    const instead = difference.engine === engine ? difference.instead(expected, situation) : undefined
    if (instead === undefined) continue
    met.add(titleOf(verb, difference))
    if (instead.reply === CONFLICT) return instead
    expected = instead as Outcome<V>
  }
  return expected
}

/** All that may make a difference on an engine, as `met` has it. */
export function titlesOf(engine: SqlEngine): string[] {
  const verbs = new Set([...Object.keys(DIFFERENCES), ...Object.keys(FAULTS)]) as Set<Verb>
  return [...verbs].flatMap((verb) =>
    entriesOf(verb)
      .filter((difference) => difference.engine === engine)
      .map((difference) => titleOf(verb, difference)),
  )
}

function entriesOf<V extends Verb>(verb: V): readonly Difference<V>[] {
  return [...(DIFFERENCES[verb] ?? []), ...(FAULTS[verb] ?? [])] as readonly Difference<V>[]
}

function titleOf(verb: Verb, { when }: Pick<Difference<Verb>, 'when'>): string {
  return `${verb}: ${when}`
}
