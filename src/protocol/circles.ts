import type { LockState } from './store.ts'

/** What somebody holds who waits. */
export interface Claim {
  readonly name: string
  readonly token: string
  /** By a transaction, exclusively: nobody else sees that before its commit, with which it is over. */
  readonly inTransaction?: true
}

/** What the database says of a lock. */
export interface Seen {
  /** Null if nobody is seen to hold it. */
  readonly state: LockState | null
  /** The highest token of which others know. */
  readonly token: bigint
}

/** A call that waits while its caller holds something. */
export interface ClaimingWait {
  readonly id: string
  /** What it waits for. */
  readonly name: string
  /** How much of it; null: all. */
  readonly weight: number | null
  /** Who waits, for people. */
  readonly holder: string
  /** Since when, by the database's clock, in milliseconds. */
  readonly since: number
  /** By when it was in the queue; null if it is not, so that all who are in it come before. */
  readonly queued: number | null
  readonly claims: readonly Claim[]
}

/** Waits that wait for each other, each for the next one, and the last for the first. */
export interface Circle {
  /** The youngest of all that wait in this circle, or in one that has a wait in common with it. It comes first in `waits`. */
  readonly victim: ClaimingWait
  readonly waits: readonly ClaimingWait[]
}

/** Those that may be in a circle, or wait for one, as far as what they say themselves goes. */
export function mayBeStuck(waits: readonly ClaimingWait[]): ClaimingWait[] {
  return stuckOf(waits, ({ name }, stuck) => stuck.some(({ claims }) => claims.some((claim) => claim.name === name)))
}

/** Those of which nobody will ever come on, if nobody leaves. `locks` are all that they wait for, at `now`. */
export function stuckBy(waits: readonly ClaimingWait[], locks: ReadonlyMap<string, Seen>, now: number): ClaimingWait[] {
  const stands = ({ name, token, inTransaction }: Claim) => {
    const seen = locks.get(name)
    // What a transaction has it cannot have from somebody who is seen to have it.
    if (inTransaction) return seen !== undefined && seen.state === null && BigInt(token) > seen.token
    return seen?.state?.holders.some((holder) => `${holder.token}` === token) === true
  }
  const standing = waits.map((wait) => ({ ...wait, claims: wait.claims.filter(stands) }))
  return stuckOf(standing, (wait, stuck) => isStuck(wait, stuck, locks.get(wait.name)?.state ?? null, now))
}

/** The circles among waits that are all stuck: one for all that have a wait in common. */
export function circlesOf(stuck: readonly ClaimingWait[]): Circle[] {
  const circles: Circle[] = []
  const seen = new Set<ClaimingWait>()
  const youngestFirst = [...stuck].sort((a, b) => b.since - a.since || (a.id < b.id ? 1 : -1))
  for (const victim of youngestFirst) {
    if (seen.has(victim)) continue
    const waits = wayBack(victim, stuck)
    if (waits === undefined) continue
    circles.push({ victim, waits })
    // Whoever else is in a circle with the victim may be on its way when that has left.
    const after = waitedFor(victim, stuck)
    for (const each of after) if (waitedFor(each, stuck).has(victim)) seen.add(each)
  }
  return circles
}

/** For people: `holder: name -> name` of each, what it holds and what it waits for. */
export function described({ waits }: Circle): string[] {
  return waits.map(({ holder, name }, index) => `${holder}: ${waits.at(index - 1)!.name} -> ${name}`)
}

/** What is left when those are taken away that will come on, until there are none. */
function stuckOf(
  waits: readonly ClaimingWait[],
  isStuck: (wait: ClaimingWait, stuck: readonly ClaimingWait[]) => boolean,
): ClaimingWait[] {
  let stuck = [...waits]
  for (;;) {
    const still = stuck.filter((wait) => isStuck(wait, stuck))
    if (still.length === stuck.length) return stuck
    stuck = still
  }
}

/** Whether those who are stuck keep it from what it waits for, when everybody else has left, and those before it were served. */
function isStuck(
  { name, weight, queued }: ClaimingWait,
  stuck: readonly ClaimingWait[],
  state: LockState | null,
  now: number,
): boolean {
  const tokens = new Set(
    stuck.flatMap(({ claims }) => claims.filter((claim) => claim.name === name)).map(({ token }) => token),
  )
  if (tokens.size === 0) return false
  // Some of these are of transactions, or nobody would be stuck who waits for a lock that nobody is seen to have.
  if (state === null) return true
  const held = state.holders.filter(({ token }) => tokens.has(`${token}`))
  if (state.mode === 'exclusive') return true
  const ahead = state.queue.filter(({ waitingMs }) => queued === null || now - waitingMs < queued)
  if (state.permits === undefined) return weight === null || ahead.some(({ mode }) => mode === 'exclusive')
  const { permits } = state
  const taken = held.reduce((sum, holder) => sum + holder.weight, 0)
  return [weight ?? permits, ...ahead.map((ticket) => ticket.weight)].some((wanted) => taken + wanted > permits)
}

function nextOf({ name }: ClaimingWait, stuck: readonly ClaimingWait[]): ClaimingWait[] {
  return stuck.filter(({ claims }) => claims.some((claim) => claim.name === name))
}

/** All that this one waits for, and what they wait for, and so on: itself as well, if it is in a circle. */
export function waitedFor(from: ClaimingWait, stuck: readonly ClaimingWait[]): Set<ClaimingWait> {
  const reached = new Set<ClaimingWait>()
  const left = [from]
  for (let wait = left.pop(); wait !== undefined; wait = left.pop()) {
    for (const next of nextOf(wait, stuck)) {
      if (reached.has(next)) continue
      reached.add(next)
      left.push(next)
    }
  }
  return reached
}

/** The shortest circle through this wait and others, from it on; of itself alone if it is in its own way; undefined if there is none. */
function wayBack(to: ClaimingWait, stuck: readonly ClaimingWait[]): ClaimingWait[] | undefined {
  const others = stuck.filter((wait) => wait !== to)
  const isInItsOwnWay = nextOf(to, [to]).length > 0
  let ways: ClaimingWait[][] = [[to]]
  const seen = new Set<ClaimingWait>()
  while (ways.length > 0) {
    const longer: ClaimingWait[][] = []
    for (const way of ways) {
      const last = way.at(-1)!
      if (last !== to && nextOf(last, [to]).length > 0) return way
      for (const next of nextOf(last, others)) {
        if (seen.has(next)) continue
        seen.add(next)
        longer.push([...way, next])
      }
    }
    ways = longer
  }
  return isInItsOwnWay ? [to] : undefined
}
