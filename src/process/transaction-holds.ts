import type { Claim } from '../protocol/circles.ts'
import type { Hold } from '../protocol/store.ts'

/**
 * The tokens of the locks that transactions of this process have taken exclusively, by their handles, of which one may serve one
 * transaction after the other.
 */
const takenIn = new WeakMap<object, Map<string, bigint>>()

/** Calls that wait for a lock, which another call in the same transaction may get first: then they have it, too. */
const waitingIn = new WeakMap<object, Set<WaitingIn>>()

interface WaitingIn {
  readonly name: string
  onTaken(): void
}

export function taken(tx: unknown, { name, token }: Pick<Hold, 'name' | 'token'>): void {
  if (!isHandle(tx)) return
  const tokens = takenIn.get(tx) ?? new Map<string, bigint>()
  takenIn.set(tx, tokens.set(name, token))
  for (const waiting of waitingIn.get(tx) ?? []) if (waiting.name === name) waiting.onTaken()
}

/** Until what this answers is called. */
export function whenTaken(tx: object, waiting: WaitingIn): () => void {
  const others = waitingIn.get(tx) ?? new Set()
  waitingIn.set(tx, others.add(waiting))
  return () => others.delete(waiting)
}

/** Whether it may have the lock: not if a savepoint was rolled back since, or if the handle serves another transaction now. */
export function mayHave(tx: unknown, name: string): boolean {
  return isHandle(tx) && takenIn.get(tx)?.has(name) === true
}

/** Of one that waits for that lock: if it has it already, that keeps it from nothing. */
export function claimsIn(tx: unknown, waitsFor: string): Claim[] {
  const tokens = isHandle(tx) ? [...(takenIn.get(tx) ?? [])].filter(([name]) => name !== waitsFor) : []
  return tokens.map(([name, token]) => ({ name, token: `${token}`, inTransaction: true }))
}

function isHandle(tx: unknown): tx is object {
  return tx !== null && (typeof tx === 'object' || typeof tx === 'function')
}
