import type { Connection } from './adapter.ts'

const NO_ACTIVE_TRANSACTION = '25P01'

/**
 * For drivers that run what is asked of a transaction that has ended, by then on a connection that is everybody's, and do not
 * tell: only the server knows. Both statements are one message, so that no savepoint of rowlock's is open beside what else is sent.
 */
export async function assertTransactionOpen(
  query: Connection['query'],
  refuse: (cause: unknown) => void,
): Promise<void> {
  try {
    await query({ text: 'savepoint rowlock_check; release savepoint rowlock_check', values: [] })
  } catch (error) {
    if ((error as { code?: unknown }).code === NO_ACTIVE_TRANSACTION) refuse(error)
    throw error
  }
}
