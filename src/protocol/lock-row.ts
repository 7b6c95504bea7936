import { grantedOwner, wentTo } from './ids.ts'
import {
  type Attempt,
  type AttemptInResult,
  type AttemptResult,
  CONFIRM_MS,
  type EnqueueResult,
  type Grant,
  type GuardResult,
  type Hold,
  type Holder,
  type LockState,
  type LockView,
  type NewTicket,
  type Promotion,
  type ReleaseResult,
  type Renewal,
  type Ticket,
  type Withdrawal,
  type WithdrawalResult,
} from './store.ts'

/** A hold as its lock's row keeps it: also one that has run out, until somebody else gets the lock. */
export interface RowHolder {
  readonly owner: string
  readonly token: bigint
  readonly label: string
  readonly session: string | null
  readonly expiresAt: number
  /** The process that it was handed to, and that has not confirmed it. */
  readonly handedTo: string | null
  readonly takeover: boolean
}

export interface QueuedTicket extends Omit<Ticket, 'name'> {
  /** Dead from then on. */
  readonly until: number
}

/** What the database knows of one lock. The row stays when nobody holds the lock, so that its token can only rise. */
export interface LockRow {
  readonly name: string
  /** None after a release; one that has run out stays, as whoever comes next takes the lock over from it. */
  readonly holders: readonly RowHolder[]
  /** The highest that was ever granted. */
  readonly token: bigint
  /** When the last hold that ended by a release or with its transaction did so. */
  readonly idleSince: number
  /** First come, first served. */
  readonly queue: readonly QueuedTicket[]
}

/** What else a decision depends on, read when the row is locked. */
export interface World {
  /** Milliseconds since 1970, by the one clock that counts. */
  readonly now: number
  /** The same in microseconds: what a token is at least. */
  readonly clock: bigint
  /** A transaction, or a statement, of somebody else's has the row locked, as a guard does. */
  readonly locked: boolean
  hasSession(process: string): boolean
  sessionEnded(session: string): boolean
}

/** Nothing was changed if `row` is the one that went in. */
export interface Step<Reply> {
  readonly row: LockRow
  readonly reply: Reply
  /** What was handed over, whoever learns of it. */
  readonly grants: readonly Grant[]
}

/**
 * The decision about a lock, stated once: what each command makes of a lock's row, and what it answers. Pure functions. The
 * in-memory engine runs them; the others say the same in SQL, and are compared with them (test/engines/differential.test.ts).
 * docs/architecture.md draws the states.
 */
export function newRow(name: string): LockRow {
  return { name, holders: [], token: 0n, idleSince: 0, queue: [] }
}

/** Greater than all before, also if the clock was set back; and never of a row that was purged before. */
function nextToken(row: LockRow, { clock }: World): bigint {
  return row.token + 1n > clock ? row.token + 1n : clock
}

function lasts(holder: RowHolder, { now, sessionEnded }: World): boolean {
  return holder.expiresAt > now && !(holder.session !== null && sessionEnded(holder.session))
}

function holdersOf(row: LockRow, world: World): readonly RowHolder[] {
  return row.holders.filter((holder) => lasts(holder, world))
}

function isAlive(ticket: QueuedTicket, { now, hasSession }: World): boolean {
  return ticket.until > now && (!ticket.provenAlive || hasSession(ticket.process))
}

function holds(row: LockRow, { owner, token }: Hold): RowHolder | undefined {
  return row.holders.find((holder) => holder.owner === owner && holder.token === token)
}

function leasesWait({ queue }: LockRow): boolean {
  return queue.some(({ transaction }) => !transaction)
}

/** Without holders: free since now, or since before. */
function freed(row: LockRow, now: number): LockRow {
  const ends = row.holders.map(({ expiresAt }) => Math.min(expiresAt, now))
  return { ...row, holders: [], idleSince: Math.max(row.idleSince, ...ends) }
}

function unchanged<Reply>(row: LockRow, reply: Reply): Step<Reply> {
  return { row, reply, grants: [] }
}

export function acquire(row: LockRow, attempt: Attempt, world: World): Step<AttemptResult> {
  const { owner, ttlMs, holder: label, session } = attempt
  const before = row.holders.find((holder) => holder.owner === owner)
  const holders = holdersOf(row, world)
  // WHO GETS THE LOCK: whoever finds it free, with nobody waiting; or who has it by this very attempt. The other half is `handOver`.
  const mine = before !== undefined && !world.locked
  const free = holders.length === 0 && row.queue.length === 0 && !world.locked
  if (!mine && !free) {
    const queued = holders.length === 0 && row.queue.length > 0
    const refused = { granted: false, holders: holders.map(({ label }) => label), queued } as const
    return unchanged(row, before === undefined ? refused : { ...refused, ours: true })
  }
  const takeover = before?.takeover ?? row.holders.length > 0
  const token = before?.token ?? nextToken(row, world)
  const reply = { granted: true, token, takeover } as const
  if (ttlMs === null) return { row: { ...freed(row, world.now), token, idleSince: world.now }, reply, grants: [] }
  const taken = { owner, token, label, session, expiresAt: world.now + ttlMs, handedTo: null, takeover }
  return { row: { ...row, holders: [taken], token }, reply, grants: [] }
}

/** In the caller's transaction; the row is as the answer says when that commits. `same` is what the transaction has of it already. */
export function acquireIn(
  row: LockRow,
  attempt: Attempt,
  same: Pick<Hold, 'owner' | 'token'> | undefined,
  world: World,
): Step<AttemptInResult> {
  if (same !== undefined) return { row: kept(row, attempt, same, world), reply: { granted: true, ...same }, grants: [] }
  // Behind each other transactions wait in the database, so only leases come before this one.
  const queue = leasesWait(row) ? row.queue : []
  const step = acquire({ ...row, queue }, attempt, world)
  if (!step.reply.granted) {
    const { holders, queued, ours } = step.reply
    // If another transaction has locked what was handed to this one, then nobody but that one is in the way.
    return unchanged(row, { granted: false, holders: ours ? [] : holders, queued: !ours && queued })
  }
  const { token } = step.reply
  return { row: { ...step.row, queue: row.queue }, reply: { granted: true, owner: attempt.owner, token }, grants: [] }
}

/** What a transaction has already; with a ttl it becomes a lease. */
function kept(
  row: LockRow,
  { ttlMs, holder: label }: Attempt,
  same: Pick<Hold, 'owner' | 'token'>,
  world: World,
): LockRow {
  if (ttlMs === null) return row
  const lease = { ...same, label, session: null, expiresAt: world.now + ttlMs, handedTo: null, takeover: false }
  return { ...row, holders: [lease], token: same.token }
}

export function enqueue(row: LockRow, ticket: NewTicket, maxWaiters: number, world: World): Step<EnqueueResult> {
  const { name: _, joins, waitMs, ...terms } = ticket
  if (waiters(row) + ticket.count > maxWaiters) return unchanged(row, { outcome: 'full' })
  const until = world.now + waitMs
  const last = row.queue.at(-1)
  const joined = last !== undefined && last.ticket === joins ? last : undefined
  const queue =
    joined === undefined
      ? [...row.queue, { ...terms, until }]
      : [
          ...row.queue.slice(0, -1),
          { ...joined, count: joined.count + ticket.count, until: Math.max(joined.until, until) },
        ]
  const queued = { ...row, queue }
  const reply = { outcome: 'queued', ticket: queue.at(-1)!.ticket, view: view(queued, world) } as const
  return { row: queued, reply, grants: [] }
}

export function withdraw(row: LockRow, { ticket, count }: Withdrawal, world: World): Step<WithdrawalResult> {
  const queue = row.queue
    .map((each) => (each.ticket === ticket ? { ...each, count: each.count - count } : each))
    .filter((each) => each.count > 0)
  const handed = holdersOf(row, world).filter(({ owner, handedTo }) => handedTo !== null && wentTo(owner, ticket))
  const grants = handed.map((holder) => toGrant(row.name, holder, world))
  return { row: { ...row, queue }, reply: { withdrawn: true, grants }, grants: [] }
}

/**
 * To the first waiter that is alive; those before it leave the queue. `row` is one that nobody holds. If there is none, a
 * hand-off that ran out has been made up for: whoever missed it may queue again, and is next.
 */
function handOver(row: LockRow, takeover: boolean, world: World): Step<null> {
  const first = row.queue.findIndex((ticket) => isAlive(ticket, world))
  const next = row.queue[first]
  if (next === undefined) {
    const holders = row.holders.map((holder) => ({ ...holder, handedTo: null }))
    return unchanged({ ...row, holders, queue: [] }, null)
  }
  const token = nextToken(row, world)
  const holder: RowHolder = {
    owner: grantedOwner(next.ticket, token),
    token,
    label: next.holder,
    session: next.session,
    expiresAt: world.now + Math.min(next.ttlMs, CONFIRM_MS),
    handedTo: next.process,
    takeover,
  }
  const left = { ...next, count: next.count - 1 }
  const queue = [...(left.count > 0 ? [left] : []), ...row.queue.slice(first + 1)]
  return { row: { ...row, holders: [holder], token, queue }, reply: null, grants: [toGrant(row.name, holder, world)] }
}

export function promote(row: LockRow, world: World): Step<Promotion> {
  if (holdersOf(row, world).length > 0) return unchanged(row, { outcome: 'held', grants: [] })
  if (row.queue.length === 0) return unchanged(row, { outcome: 'idle', grants: [] })
  if (world.locked) return unchanged(row, { outcome: 'locked', grants: [] })
  // A hand-off that ran out unconfirmed: its process is gone or stands still, so none of its waiters is next.
  const gone = row.holders.map(({ handedTo }) => handedTo)
  const queue = row.queue.filter(({ process }) => !gone.includes(process))
  const takeover = row.holders.length > 0
  const { row: after, grants } = handOver({ ...row, queue }, takeover, world)
  return { row: after, reply: { outcome: grants.length > 0 ? 'handed over' : 'idle', grants }, grants }
}

export function release(row: LockRow, hold: Hold, world: World): Step<ReleaseResult> {
  if (holds(row, hold) === undefined) {
    return unchanged(row, { outcome: 'lost', handedOver: false, grants: [], promoteLater: false })
  }
  const free = freed(row, world.now)
  // While a guarded transaction is open, nobody can be given the lock; but its lease may end.
  const promoteLater = world.locked && row.queue.length > 0
  const { row: after, grants } = promoteLater ? unchanged(free, null) : handOver(free, false, world)
  return { row: after, reply: { outcome: 'released', handedOver: grants.length > 0, grants, promoteLater }, grants }
}

/** In the caller's transaction; the row is as the answer says when that commits. */
export function releaseIn(row: LockRow, hold: Hold, world: World): Step<'lost' | { readonly awaited: boolean }> {
  if (holds(row, hold) === undefined) return unchanged(row, 'lost')
  return { row: freed(row, world.now), reply: { awaited: row.queue.length > 0 }, grants: [] }
}

/** Never shortens, so a late one is harmless. */
export function renew(row: LockRow, hold: Hold & { readonly ttlMs: number }, world: World): Step<Renewal> {
  const holder = holds(row, hold)
  if (holder === undefined || holder.expiresAt <= world.now) return unchanged(row, { outcome: 'lost', remainingMs: 0 })
  const expiresAt = Math.max(holder.expiresAt, world.now + hold.ttlMs)
  const holders = row.holders.map((each) => (each === holder ? { ...holder, expiresAt, handedTo: null } : each))
  return { row: { ...row, holders }, reply: { outcome: 'renewed', remainingMs: expiresAt - world.now }, grants: [] }
}

/** What makes it hold until the transaction ends is the lock on the row that the transaction gets with the answer. */
export function guard(row: LockRow, hold: Hold, world: World): GuardResult {
  const holder = holds(row, hold)
  return holder !== undefined && holder.expiresAt > world.now ? 'stands' : 'lost'
}

export function forceRelease(row: LockRow, world: World): Step<'released' | 'free' | 'locked'> {
  if (!row.holders.some(({ expiresAt }) => expiresAt > world.now)) return unchanged(row, 'free')
  if (world.locked) return unchanged(row, 'locked')
  return { row: { ...freed(row, world.now), token: nextToken(row, world) }, reply: 'released', grants: [] }
}

/** Never one whose token is ahead of the clock: a new row of that name would start at the clock, below it. */
export function isPurgeable(row: LockRow, idleMs: number, world: World): boolean {
  const since = Math.max(row.idleSince, ...row.holders.map(({ expiresAt }) => expiresAt))
  const awaited = row.queue.some((ticket) => isAlive(ticket, world))
  return since <= world.now - idleMs && !world.locked && !awaited && row.token < world.clock
}

export function view(row: LockRow, world: World): LockView {
  const holders = holdersOf(row, world)
  return {
    name: row.name,
    holders: holders.map(
      ({ owner, token, label, expiresAt, takeover }): Holder => ({
        name: row.name,
        owner,
        token,
        label,
        remainingMs: expiresAt - world.now,
        takeover,
      }),
    ),
    bySession: holders.some(({ session }) => session !== null),
    promotable: holders.length === 0 && row.queue.length > 0,
    leasesWait: leasesWait(row),
    tickets: row.queue.map(({ ticket }) => ticket),
  }
}

/** Null if nobody holds it. */
export function state(row: LockRow, world: World): LockState | null {
  const [holder] = holdersOf(row, world)
  if (holder === undefined) return null
  const { owner, token, label, expiresAt } = holder
  return { name: row.name, owner, token, holder: label, expiresInMs: expiresAt - world.now, waiters: waiters(row) }
}

function waiters({ queue }: LockRow): number {
  return queue.reduce((sum, { count }) => sum + count, 0)
}

function toGrant(name: string, holder: RowHolder, { now }: World): Grant {
  const { owner, token, takeover, expiresAt } = holder
  return { name, owner, token, takeover, process: holder.handedTo!, remainingMs: expiresAt - now }
}
