import { AsyncLocalStorage } from 'node:async_hooks'
import { DeadlockError, LockLostError } from '../base/errors.ts'
import type { HeldLease } from './options.ts'

/** What a run has to know of its lease. */
export interface RunLease extends HeldLease {
  readonly signal: AbortSignal
  /** How many bodies of run are under way under it. */
  bodies: number
}

/**
 * What the runs around a piece of code hold, of all instances, the innermost last. One storage for the process: on Node 20 and
 * 22 each costs something with every promise.
 */
const around = new AsyncLocalStorage<readonly RunHold<RunLease>[]>()

/** A hold that run has taken. Bodies that re-enter it share it, and the last of them to end frees it. */
export class RunHold<L extends RunLease> {
  readonly reentry: object
  readonly name: string
  #lease: L | undefined

  constructor(reentry: object, lease: L) {
    this.reentry = reentry
    this.name = lease.name
    this.#lease = lease
    lease.bodies = 1
  }

  /**
   * Undefined once all bodies have ended. What a body has made keeps its context: a socket of a pool does so for as long as it
   * lives, and would keep the lease as well.
   */
  get lease(): L | undefined {
    return this.#lease
  }

  /** Calls `body` where it is known that this is held. Always later, as if the lock had to be asked for. */
  call<T>(body: (lease: L) => T): T | Promise<Awaited<T>> {
    const lease = this.#lease!
    const holds = around.getStore() ?? []
    if (holds.includes(this)) return Promise.resolve(lease).then(body) as Promise<Awaited<T>>
    // Those that are over would go on for ever where each run starts the next one, as by a timer.
    const standing = holds.filter((each) => each.lease !== undefined)
    return around.run([...standing, this], body, lease)
  }

  /** A body has ended. True if it was the last one, who gives the lock back. */
  leave(): boolean {
    this.#lease!.bodies--
    if (this.#lease!.bodies > 0) return false
    this.#lease = undefined
    return true
  }
}

/** What the runs of one instance hold around the code that asks. The same name is another lock in another instance. */
export class Reentry<L extends RunLease> {
  readonly #isOurs: (lease: HeldLease) => boolean

  constructor(isOurs: (lease: HeldLease) => boolean) {
    this.#isOurs = isOurs
  }

  begin(lease: L): RunHold<L> {
    return new RunHold(this, lease)
  }

  /**
   * The hold of the run around the caller, shared by one body more; undefined if there is none, or if a body has released it.
   * One that was lost is not replaced: the body around the caller goes on with a token that may have been overtaken.
   */
  enter(name: string): RunHold<L> | undefined {
    const hold = this.#find(name, (lease) => lease.isHeld() || lease.signal.aborted)
    const lease = hold?.lease
    if (hold === undefined || lease === undefined) return undefined
    if (!lease.isHeld()) {
      throw new LockLostError(
        name,
        'the run() around this call has lost it, so it cannot be re-entered. Let that run end',
        {
          cause: lease.signal.reason,
        },
      )
    }
    lease.bodies++
    return hold
  }

  /** Who waits for what it holds itself waits in vain. */
  assertMayWait(name: string, holding: readonly HeldLease[]): void {
    if (this.#find(name, (lease) => lease.isHeld()) !== undefined) {
      throw new DeadlockError(
        name,
        'the run() around this call holds it. Use the lease that its body was given, or share it by run(name, { reenter: true }, ...)',
      )
    }
    if (holding.some((lease) => lease.name === name && this.#isOurs(lease) && lease.isHeld())) {
      throw new DeadlockError(name, 'a lease in `holding` has it. Use that lease, or release it before')
    }
  }

  #find(name: string, isMeant: (lease: RunLease) => boolean): RunHold<L> | undefined {
    const found = around
      .getStore()
      ?.findLast(
        ({ name: held, reentry, lease }) => held === name && reentry === this && lease !== undefined && isMeant(lease),
      )
    // What has this for its `reentry` was made by `begin`.
    return found as RunHold<L> | undefined
  }
}

/** For listeners: no body waits for them, so they are no part of the run in which they are called. */
export function outsideRuns<Argument>(listener: (argument: Argument) => void, argument: Argument): void {
  if (around.getStore() === undefined) listener(argument)
  else around.exit(listener, argument)
}
