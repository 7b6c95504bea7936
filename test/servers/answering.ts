import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from '../connect.ts'

/** Waits until the server accepts connections and queries; `hasFailed` ends the wait early with the reason it returns. */
export async function untilAnswering(
  url: string,
  { seconds, hasFailed = () => null }: { seconds: number; hasFailed?: () => string | null },
): Promise<void> {
  const deadline = performance.now() + seconds * 1000
  for (;;) {
    const failure = hasFailed()
    if (failure !== null) throw new Error(failure)
    try {
      const connection = await connect(url)
      await connection.close()
      return
    } catch (error) {
      if (performance.now() > deadline) {
        throw new Error(`${withoutPassword(url)} did not answer within ${seconds} s: ${error}`, { cause: error })
      }
      await sleep(50)
    }
  }
}

function withoutPassword(url: string): string {
  const shown = new URL(url)
  shown.password = ''
  return shown.href
}
