import { LockError } from '../base/errors.ts'
import type { Demand, Kind } from '../protocol/store.ts'

/** What was asked for is never to be had of what the name is: a lock, or a semaphore with so many permits. */
export function misuse(name: string, { weight, permits }: Demand, kind: Kind): LockError {
  return new LockError('INVALID_ARGUMENT', explain(JSON.stringify(name), weight, permits, kind))
}

function explain(name: string, weight: number | null, permits: number | null, kind: Kind): string {
  if (kind === 'lock') return `${name} is the name of a lock: give the semaphore another name`
  if (permits === null)
    return `${name} is the name of a semaphore: use locks.semaphore(), or give the lock another name`
  return `the weight ${weight} is more than the ${kind.permits} permits of the semaphore ${name}`
}
