import { randomHex } from '../base/random.ts'
import type { Hold } from './store.ts'

/**
 * Ids of holds and of places in queues, made and read here alone; engines that make an owner in SQL say the same in their
 * dialect (`grantedOwner`).
 *
 * A ticket is 16 hex digits. The owner of a hold is 32: of an attempt they are random, and of a hand-off they are the ticket
 * that it went to, followed by the token, so that a process finds its waiter, and the same hand-off is told once.
 */
const TICKET_DIGITS = 16

export function newTicketId(): string {
  return randomHex(TICKET_DIGITS / 2)
}

export function newOwner(): string {
  return randomHex(TICKET_DIGITS)
}

export function grantedOwner(ticket: string, token: bigint): string {
  return ticket + digitsOf(token)
}

/** The ticket that a hold went to, if it was handed over. */
export function ticketOf(owner: string): string {
  return owner.slice(0, TICKET_DIGITS)
}

export function wasHandedOver({ owner, token }: Hold): boolean {
  return owner.endsWith(digitsOf(token))
}

/** Whether the hold went to that ticket. */
export function wentTo(owner: string | null | undefined, ticket: string): boolean {
  return owner != null && ticketOf(owner) === ticket
}

function digitsOf(token: bigint): string {
  return token.toString(16).padStart(TICKET_DIGITS, '0')
}
