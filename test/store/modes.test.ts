import { describe } from 'vitest'
import { engines } from '../engines.ts'
import { modesSuite } from './modes.ts'

/** With one connection nothing can be asked beside a transaction. */
for (const engine of engines()) {
  if (engine.engine !== 'memory' && !engine.shared) continue
  describe(engine.name, () => modesSuite(engine))
}
