import type { Claim } from '../protocol/circles.ts'
import type { Hold } from '../protocol/store.ts'

/**
 * The tokens of the locks that transactions of this process have taken exclusively, by their handles, of which one may serve one
 * transaction after the other.
 */
const takenIn = new WeakMap<object, Map<string, bigint>>()

export function taken(tx: unknown, { name, token }: Pick<Hold, 'name' | 'token'>): void {
  if (!isHandle(tx)) return
  const tokens = takenIn.get(tx) ?? new Map<string, bigint>()
  takenIn.set(tx, tokens.set(name, token))
}

/** Whether it may have the lock: not if a savepoint was rolled back since, or if the handle serves another transaction now. */
export function mayHave(tx: unknown, name: string): boolean {
  return isHandle(tx) && takenIn.get(tx)?.has(name) === true
}

export function claimsIn(tx: unknown): Claim[] {
  const tokens = isHandle(tx) ? [...(takenIn.get(tx) ?? [])] : []
  return tokens.map(([name, token]) => ({ name, token: `${token}`, inTransaction: true }))
}

function isHandle(tx: unknown): tx is object {
  return tx !== null && (typeof tx === 'object' || typeof tx === 'function')
}
