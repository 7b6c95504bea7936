import type { OperationId } from './history.ts'

export interface RegisterEntry {
  readonly lock: string
  readonly token: number
  readonly operation: OperationId
  readonly accepted: boolean
}

/**
 * Something outside of the database that locks protect, such as a file or a device. It knows nothing of leases: it compares
 * tokens, and refuses what is lower than the highest that it has seen.
 */
export class Register {
  readonly #highest = new Map<string, number>()
  readonly entries: RegisterEntry[] = []

  write(lock: string, token: number, operation: OperationId): void {
    const accepted = token >= (this.#highest.get(lock) ?? 0)
    if (accepted) this.#highest.set(lock, token)
    this.entries.push({ lock, token, operation, accepted })
  }
}
